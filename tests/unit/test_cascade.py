"""A cascade: the quick model ranks all, the right one the best of these; one deadline, and scores that only fall."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from reranker.errors import InvalidScoreError, NotReadyError, OverloadedError, ReplicaLostError
from reranker.ranking.admission import Permit
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, Ranking, RankRequest, SpanTerms, Stages
from tests.unit.doors import BODY, WordBackend, door, visitor
from tests.unit.several import QUERY, TEXTS, Service, order, scores, settings


def _keeping(keep: Any, **more: Any) -> Service:
    return Service(settings(cascades={"careful": {"first": "fast", "then": "best", "keep": keep}}, **more))


@pytest.mark.parametrize("keep", [5, 0.1, {"above": 0.9}, len(TEXTS), 1_000])
async def test_second_ranks_the_best_of_the_first_and_the_rest_follows_in_the_firsts_order(keep: Any) -> None:
    service = _keeping(keep)
    first, second = await service.rank("fast"), await service.rank("best")
    number = {5: 5, 0.1: 6}.get(keep) if not isinstance(keep, dict) else None
    if isinstance(keep, dict):
        number = sum(one.relevance_score > 0.9 for one in first.results)
    kept = order(first)[: number or len(TEXTS)]
    ranking = await service.rank("careful")
    assert order(ranking) == [index for index in order(second) if index in kept] + order(first)[len(kept) :]
    assert {index: score for index, score in scores(ranking).items() if index in kept} == {
        index: scores(second)[index] for index in kept
    }
    for key in ("relevance_score", "log_odds"):
        assert all(getattr(a, key) >= getattr(b, key) for a, b in pairwise(ranking.results))
    assert ranking.stages is not None
    assert (ranking.model, ranking.stages.missed) == ("careful", "")
    assert ranking.stages.ranked_again == tuple(sorted(kept))
    service.require_idle()


async def test_score_of_the_rest_is_the_firsts_unless_that_is_above_the_seconds_lowest() -> None:
    service = _keeping(5)
    first, ranking = await service.rank("fast"), await service.rank("careful")
    lowest = ranking.results[4].log_odds
    assert [one.log_odds for one in ranking.results[5:]] == [min(one.log_odds, lowest) for one in first.results[5:]]


async def test_large_model_computes_what_is_kept_of_a_thousand_documents() -> None:
    """Where it costs ten times as much a token: a fifth of its time, and the order it would give what is kept."""
    texts = [f"{TEXTS[i % len(TEXTS)]} number {i}" for i in range(1_000)]
    service = _keeping(50)
    best = await service.rank("best", texts, cache="off")
    alone, service.tokens = 10 * service.tokens["best"], type(service.tokens)()
    ranking = await service.rank("careful", texts, cache="off")
    assert service.tokens["fast"] + 10 * service.tokens["best"] <= 0.2 * alone
    assert ranking.stages is not None
    kept = set(ranking.stages.ranked_again)
    assert len(kept) == 50
    assert order(ranking)[:10] == [index for index in order(best) if index in kept][:10]


async def test_both_stages_use_and_fill_the_cache() -> None:
    service = _keeping(5)
    cold, warm = await service.rank("careful"), await service.rank("careful")
    assert (cold.cached_documents, cold.missed_documents) == (0, len(TEXTS) + 5)
    assert (warm.cached_documents, warm.missed_documents) == (len(TEXTS) + 5, 0)
    assert warm.results == cold.results
    assert (await service.rank("fast")).cached_documents == len(TEXTS)
    assert (await service.rank("best")).cached_documents == 5


async def test_tokens_and_shards_of_both_stages_are_counted() -> None:
    service = _keeping(5)
    prompt_tokens = (await service.rank("fast", cache="off")).prompt_tokens
    ranking = await service.rank("careful", cache="off")
    assert ranking.prompt_tokens > prompt_tokens
    assert service.record.pairs == len(TEXTS) + 5
    assert ranking.stages is not None
    documents = [one.documents for one in service.record.shards]
    assert documents[-1] == list(ranking.stages.ranked_again)  # as the client numbers them


async def test_threshold_rules_and_top_n_are_for_the_final_ranking() -> None:
    rules = {"exclude": [{"name": "sevens", "pattern": "7$"}]}
    service = _keeping(20, rules=rules)
    plain = await _keeping(20).rank("careful")
    threshold = plain.results[3].relevance_score
    ranking = await service.rank("careful", top_n=3, score_threshold=threshold)
    wanted = [one for one in plain.results if not TEXTS[one.index].endswith("7")]
    wanted = [one for one in wanted if one.relevance_score >= threshold]
    assert list(ranking.results) == wanted[:3]
    assert {one.index for one in ranking.excluded if one.rule == "sevens"} == set(range(7, len(TEXTS), 10))
    complete = await service.rank("careful", caller=replace(ANONYMOUS, complete=True), top_n=3)
    assert sorted(order(complete)) == list(range(len(TEXTS)))


async def test_second_that_is_too_slow_leaves_the_firsts_ranking_in_time() -> None:
    service = _keeping(5)
    first = await service.rank("fast")

    async def never() -> None:
        await asyncio.Event().wait()

    service.before_scoring["best"] = never
    ranking = await service.rank("careful", timeout_s=0.5)
    assert service.record.total_s < 0.5  # the deadline itself, not a measured time
    assert ranking.results == first.results
    assert ranking.stages is not None
    assert (ranking.stages.ranked_again, ranking.stages.missed) == ((), "deadline_exceeded")
    service.require_idle()


async def test_second_without_engines_or_with_dying_ones_leaves_the_firsts_ranking() -> None:
    service = _keeping(5)

    async def lost() -> None:
        raise ReplicaLostError

    service.before_scoring["best"] = lost
    dying = await service.rank("careful")
    service.stop("best")
    service.by_name["best"].placement.any_yet = False
    gone = await service.rank("careful")
    assert [one.stages and one.stages.missed for one in (dying, gone)] == ["replica_lost", "not_ready"]
    service.stop("fast")
    service.by_name["fast"].placement.any_yet = False
    with pytest.raises(NotReadyError):
        await service.rank("careful")
    service.require_idle()


async def test_place_at_the_second_is_taken_before_any_work_and_given_back() -> None:
    service = _keeping(5)
    seen: list[int] = []

    async def look() -> None:
        seen.append(service.by_name["best"].load()["lists"])

    service.before_scoring["fast"] = look
    await service.rank("careful")
    assert set(seen) == {1}
    service.require_idle()


async def test_second_that_is_full_is_asked_again_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    service = _keeping(5)
    admission = service.by_name["best"].ranker.admission
    full, permit = True, admission.permit

    def refuse(*arguments: Any, **more: Any) -> Permit:
        if full:
            raise OverloadedError(9.0, 4)
        return permit(*arguments, **more)

    monkeypatch.setattr(admission, "permit", refuse)
    ranking = await service.rank("careful")
    assert ranking.stages is not None
    assert (ranking.stages.missed, ranking.results) == ("overloaded", (await service.rank("fast")).results)

    async def free() -> None:
        nonlocal full
        full = False

    service.before_scoring["fast"] = free
    ranking = await service.rank("careful", cache="off")
    assert ranking.stages is not None
    assert (ranking.stages.missed, len(ranking.stages.ranked_again)) == ("", 5)
    service.require_idle()


async def test_wrong_score_of_the_second_names_the_document_as_the_client_numbers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = _keeping(5)
    kept = sorted(order(await service.rank("fast"))[:5])
    monkeypatch.setattr("tests.unit.several.simulated_logit", lambda *_: math.nan)
    with pytest.raises(InvalidScoreError) as raised:
        await service.rank("careful", cache="read")
    assert raised.value.index == kept[0]


async def test_nothing_above_the_score_is_the_firsts_ranking_and_nothing_is_missed() -> None:
    service = _keeping({"above": 1.0})
    ranking = await service.rank("careful")
    assert ranking.results == (await service.rank("fast")).results
    assert ranking.stages is not None
    assert (ranking.stages.ranked_again, ranking.stages.missed) == ((), "")
    assert service.tokens["best"] == 0


@pytest.mark.parametrize(("missed", "header"), [("", "words, best"), ("overloaded", "words")])
async def test_answer_says_who_ranked_what_beside_the_results_or_in_its_header(missed: str, header: str) -> None:
    """Within the results several clients break on what they do not know; a bare list has no place beside them."""

    class Backend(WordBackend):
        async def rank(self, *arguments: Any) -> list[Ranking]:
            stages = Stages("words", "best", () if missed else (1, 2), missed)
            return [replace(one, model="careful", stages=stages) for one in await super().rank(*arguments)]

    backend = Backend()
    backend.cascades = {"careful": ("words", "best")}
    async with visitor(door(backend)) as client:
        common = await client.post("/v1/rerank", json=BODY | {"model": "careful"})
        plain = await client.post("/rerank", json={"query": "one two", "texts": BODY["documents"], "model": "careful"})
    said = {"ranked_again": [], "missed": missed} if missed else {"ranked_again": [1, 2]}
    assert common.json()["stages"] == {"first": "words", "then": "best"} | said
    assert [set(one) for one in common.json()["results"]] == [{"index", "relevance_score"}] * 3
    assert [set(one) for one in plain.json()] == [{"index", "score"}] * 3
    for answer in (common, plain):
        assert answer.headers["x-reranker-stages"] == header
        assert "x-reranker-ignored" not in answer.headers


async def test_spans_are_of_the_final_ranking_and_by_the_model_whose_scores_lead_it() -> None:
    texts = [f"The {word} is large. It was seen in spring." for word in ("river", "house", "tree", "cloud", "stone")]
    service = _keeping(2)
    ranking = await service.rank("careful", texts, spans=SpanTerms(threshold=0.0), top_n=3)
    wanted = await service.rank("best", texts, spans=SpanTerms(threshold=0.0))
    assert len(ranking.results) == 3
    assert all(one.spans for one in ranking.results)
    by_index = {one.index: one.spans for one in wanted.results}
    assert [one.spans for one in ranking.results] == [by_index[one.index] for one in ranking.results]
    service.stop("best")
    service.by_name["best"].placement.any_yet = False
    missed = await service.rank("careful", texts, spans=SpanTerms(threshold=0.0), top_n=3)
    alone = await service.rank("fast", texts, spans=SpanTerms(threshold=0.0), top_n=3)
    assert missed.results == alone.results
    service.require_idle()


async def test_several_lists_of_one_request_are_each_ranked_by_both() -> None:
    service = _keeping(2)
    lists = [RankRequest(QUERY, TEXTS[start : start + 5], model="careful") for start in (0, 5)]
    record = RequestRecord("an-id")
    record.body_bytes = 1_000
    rankings = await service.models.rank(lists, ANONYMOUS, record)
    for one, ranking in zip(lists, rankings, strict=True):
        assert ranking.results == (await service.rank("careful", one.documents)).results
    service.require_idle()
