"""A pair that was scored is not scored again, whoever asks, and never is a score wrong or lost because of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from reranker.config import CacheConfig
from reranker.errors import OverloadedError
from reranker.types import EngineScores, ReplicaLoad
from tests.unit.fleets import Call, scores
from tests.unit.rankers import CONFIG, TEXTS, Ingress, request_for

LONG_DOCUMENT = " ".join(f"china {number}" for number in range(200))


async def test_list_seen_before_is_answered_without_an_engine() -> None:
    ingress = Ingress()
    first = await ingress.rank(request_for())
    again = await ingress.rank(request_for())
    assert ingress.pairs == first.pairs == 20
    assert (again.pairs, again.shards, again.replicas) == (0, 0, 0)
    assert (again.cached_documents, again.missed_documents) == (20, 0)
    assert again.results == first.results  # the very same floats
    assert again.prompt_tokens == first.prompt_tokens
    ingress.require_idle()


async def test_only_what_is_new_in_a_list_is_scored() -> None:
    ingress = Ingress()
    await ingress.rank(request_for(TEXTS[:20]))
    ranking = await ingress.rank(request_for((*TEXTS[10:30], TEXTS[12])))
    assert (ranking.pairs, ranking.cached_documents, ranking.missed_documents) == (10, 10, 10)
    assert ranking.deduplicated_pairs == 1
    whole = await Ingress().rank(request_for((*TEXTS[10:30], TEXTS[12])))
    assert ranking.results == whole.results


async def test_windows_and_cuts_come_back_from_the_cache_as_they_were() -> None:
    ingress = Ingress()
    for fields in ({"long_documents": "windows"}, {"max_document_tokens": 9}, {"aggregate": "mean"}):
        request = request_for((LONG_DOCUMENT, *TEXTS[:3]), **fields)
        first, again = await ingress.rank(request), await ingress.rank(request)
        assert again.results == first.results
        assert again.pairs == 0
        assert (again.truncated_documents, again.windowed_documents, again.prompt_tokens) == (
            first.truncated_documents,
            first.windowed_documents,
            first.prompt_tokens,
        )


async def test_aggregates_share_the_windows_scores() -> None:
    ingress = Ingress()
    await ingress.rank(request_for((LONG_DOCUMENT,), long_documents="windows", aggregate="max"))
    mean = await ingress.rank(request_for((LONG_DOCUMENT,), long_documents="windows", aggregate="mean"))
    alone = await Ingress().rank(request_for((LONG_DOCUMENT,), long_documents="windows", aggregate="mean"))
    assert mean.pairs == 0
    assert mean.results == alone.results


@pytest.mark.parametrize(
    "other",
    [
        {"query": "another"},
        {"instruction": "another"},
        {"truncation_side": "start"},
        {"long_documents": "windows"},
        {"max_document_tokens": 100},
        {"overlap_tokens": 1},
        {"max_windows": 1},
    ],
)
async def test_request_that_differs_in_what_scores_depend_on_is_scored(other: dict[str, Any]) -> None:
    ingress = Ingress()
    await ingress.rank(request_for())
    ranking = await ingress.rank(replace(request_for(), **other))
    assert (ranking.cached_documents, ranking.pairs) == (0, 20)


@pytest.mark.parametrize(
    "other", [{"top_n": 3}, {"score_threshold": 0.5}, {"priority": "bulk"}, {"aggregate": "mean"}, {"timeout_s": 9}]
)
async def test_request_that_differs_in_what_scores_do_not_depend_on_is_not(other: dict[str, Any]) -> None:
    ingress = Ingress()
    await ingress.rank(request_for())
    assert (await ingress.rank(replace(request_for(), **other))).pairs == 0


async def test_named_instruction_is_its_text() -> None:
    ingress = Ingress()
    await ingress.rank(request_for(instruction="@medical"))
    assert (await ingress.rank(request_for(instruction=CONFIG.model.instructions["medical"]))).pairs == 0


@pytest.mark.parametrize(
    ("mode", "uses", "remembers"),
    [(None, True, True), ("read", True, False), ("refresh", False, True), ("off", False, False)],
)
async def test_request_says_what_the_cache_may_do(mode: Any, uses: bool, remembers: bool) -> None:
    ingress = Ingress()
    await ingress.rank(request_for(TEXTS[:10]))
    assert (await ingress.rank(request_for(TEXTS[:10], cache=mode))).pairs == (0 if uses else 10)
    await ingress.rank(request_for(TEXTS[10:20], cache=mode))
    assert (await ingress.rank(request_for(TEXTS[10:20]))).pairs == (0 if remembers else 10)
    ingress.require_idle()


async def test_refreshed_score_replaces_the_remembered_one() -> None:
    ingress = Ingress()
    await ingress.rank(request_for())
    ingress.fleet.act = _constantly(3)
    assert len({one.log_odds for one in (await ingress.rank(request_for())).results}) > 1
    await ingress.rank(request_for(cache="refresh"))
    assert {one.log_odds for one in (await ingress.rank(request_for())).results} == {3}


def _constantly(logit: float) -> Callable[[Call], Awaitable[EngineScores]]:
    async def act(call: Call) -> EngineScores:
        return scores(*[logit] * len(call.shard))

    return act


async def test_callers_find_only_their_own_where_the_configuration_says_so() -> None:
    apart = Ingress(config=CONFIG.model_copy(update={"cache": CacheConfig(namespace="api_key")}))
    together = Ingress()
    for ingress, pairs in ((apart, 20), (together, 0)):
        await ingress.rank(request_for(), "one")
        assert (await ingress.rank(request_for(), "two")).pairs == pairs
        assert (await ingress.rank(request_for(), "one")).pairs == 0


async def test_score_of_another_model_is_never_served() -> None:
    ingress = Ingress()
    await ingress.rank(request_for())
    ingress.fleet.hold("another model")
    ranking = await ingress.rank(request_for())
    assert (ranking.cached_documents, ranking.pairs) == (0, 20)


async def test_list_does_not_mix_the_scores_of_two_models() -> None:
    """The engines were replaced, and the ingress has not heard of it yet."""
    ingress = Ingress()
    await ingress.rank(request_for(TEXTS[:10]))
    ingress.fleet.hold("another model", known=False)
    ingress.fleet.act = _constantly(3)
    ranking = await ingress.rank(request_for(TEXTS[:20]))
    assert {one.log_odds for one in ranking.results} == {3}
    assert (ranking.pairs, ranking.cached_documents) == (20, 0)
    assert ingress.memory.statistics["entries"] == 10 + 20  # of the old model and of the new one
    ingress.require_idle()


async def test_known_list_is_let_in_however_long_the_queue_is() -> None:
    ingress = Ingress()
    known = await ingress.rank(request_for(TEXTS[:20]))
    busy = ReplicaLoad(10**9, 1_000.0, {"another ingress": 10**9})
    for name in ingress.fleet.names:
        ingress.fleet.placement.note_load(name, busy)
    assert (await ingress.rank(request_for(TEXTS[:20]))).results == known.results
    with pytest.raises(OverloadedError):
        await ingress.rank(request_for(TEXTS[:21]))


async def test_long_list_is_hashed_off_the_event_loop() -> None:
    documents = [f"{number} " + "x" * 3_000 for number in range(100)]
    ingress = Ingress()
    await ingress.rank(request_for(documents))
    assert (await ingress.rank(request_for(documents))).pairs == 0
