"""The second ranking: which parts of the documents that are returned made them relevant."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from reranker.config import EvidenceConfig
from reranker.errors import ReplicaLostError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.types import EngineScores, RankRequest, SpanTerms
from tests.unit.fleets import Call, FakeFleet, by_length, movable_clock, never, scores
from tests.unit.rankers import CONFIG, RENDERER, Ingress, Ranked, rank, rank_once, request_for, require_idle, until

FILLER = "Nothing in these words is about what was asked here at all."
ANSWER = "The capital of that country is the city with a large river."
OTHER = "Another sentence of the same document that is not about it."
TERMS = SpanTerms(threshold=0.5)
CAPITAL = RENDERER._template.plain.encode(" capital")[0]
RIVER = RENDERER._template.plain.encode(" river")[0]


async def by_words(call: Call) -> EngineScores:
    """Score 3 for "capital", 1 more for "river", a little less for each token: a stand-in for a lexical model."""
    await asyncio.sleep(0)
    shard, found = call.shard, []
    for start, end in zip(shard.offsets, shard.offsets[1:], strict=False):
        tokens = shard.tokens[start:end]
        found.append(6.0 * (CAPITAL in tokens) + 2.0 * (RIVER in tokens) - 3 - 0.001 * len(tokens))
    return scores(*found)


def request(*documents: str, spans: SpanTerms | None = TERMS, **fields: Any) -> RankRequest:
    return RankRequest("what is the capital", documents, spans=spans, **fields)


def texts(ranked: Ranked, asked: RankRequest) -> list[list[str]]:
    return [[asked.documents[one.index][span.start : span.end] for span in one.spans] for one in ranked.results]


async def test_the_sentence_that_answers_is_the_first_span() -> None:
    asked = request(f"{FILLER} {FILLER}", f"{OTHER}  {ANSWER}\n{FILLER}")
    ranked = await rank_once(asked, FakeFleet(2, by_words))
    assert texts(ranked, asked) == [[ANSWER], []]
    [span] = ranked.results[0].spans
    assert span.relevance_score == pytest.approx(1 / (1 + np.exp(-span.log_odds)))
    assert ranked.results[0].log_odds < span.log_odds  # of fewer words


async def test_without_the_field_nothing_is_scored_besides() -> None:
    asked = request(f"{OTHER} {ANSWER}", spans=None)
    ranked = await rank_once(asked, fleet := FakeFleet(1, by_words))
    assert sum(len(call.shard) for call in fleet.calls) == 1
    assert ranked.results[0].spans == ()
    assert "evidence" not in ranked.record.stages_s()


async def test_neighbours_that_score_higher_together_are_one_span() -> None:
    halves = (
        "The capital of that country is a city that nobody mentions.",
        "It lies on both banks of a very wide and long river indeed.",
    )
    asked = request(f"{FILLER} {halves[0]} {halves[1]} {OTHER}")
    ranked = await rank_once(asked, FakeFleet(1, by_words))
    assert texts(ranked, asked) == [[" ".join(halves)]]


async def test_only_documents_that_are_returned_are_looked_at_and_identical_sentences_once() -> None:
    asked = request(f"{OTHER} {ANSWER}", f"{ANSWER} {FILLER}", f"{FILLER} capital {FILLER}", top_n=2)
    ranked = await rank_once(asked, fleet := FakeFleet(1, by_words))
    pairs = [len(call.shard) for call in fleet.calls]
    assert pairs == [3, 3, 2]  # the list; its distinct sentences; the two that go together
    assert ranked.record.shards[0].documents == [0, 1, 2]
    assert {index for shard in ranked.record.shards[1:] for index in shard.documents} <= {0, 1}
    assert {"evidence", "engine"} <= ranked.record.stages_s().keys()
    plain = await rank_once(request(*asked.documents, top_n=2, spans=None), FakeFleet(1, by_words))
    assert ranked.prompt_tokens > plain.prompt_tokens
    assert [(one.index, one.log_odds) for one in ranked.results] == [(one.index, one.log_odds) for one in plain.results]


async def test_known_sentences_come_from_the_cache() -> None:
    ingress = Ingress(by_words)
    asked = request(f"{OTHER} {ANSWER}", f"{FILLER} {FILLER}")
    first = await ingress.rank(asked)
    scored = ingress.pairs
    assert (await ingress.rank(asked)).results == first.results
    assert ingress.pairs == scored
    ingress.require_idle()


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (SpanTerms(threshold=0.0), 3),
        (SpanTerms(threshold=0.0, max_spans=2), 2),
        (SpanTerms(), 1),
        (SpanTerms(threshold=0.0, max_tokens=30), 2),
        (SpanTerms(threshold=0.0, max_tokens=1), 0),
    ],
)
async def test_the_request_says_which_spans_are_kept(terms: SpanTerms, expected: int) -> None:
    ranked = await rank_once(request(f"{OTHER} {FILLER} {ANSWER}", spans=terms), FakeFleet(1, by_words))
    spans = ranked.results[0].spans
    assert len(spans) == expected
    assert list(spans) == sorted(spans, key=lambda one: -one.relevance_score)


async def test_of_a_cut_document_only_what_was_read_has_spans() -> None:
    """At either end: places are those of the document as it was sent."""
    document = " ".join(f"The capital number {number} is a city on some river." for number in range(400))
    for side, most in (("end", None), ("start", None), ("end", 60), ("start", 60)):
        asked = request(document, truncation_side=side, max_document_tokens=most, spans=SpanTerms(threshold=0.0))
        ranked = await rank_once(asked, FakeFleet(1, by_words))
        places = [place for span in ranked.results[0].spans for place in span[:2]]
        assert places
        assert ranked.results[0].truncated
        assert (min(places) == 0) == (side == "end")
        assert (max(places) == len(document)) == (side == "start")
        read = (most or 256) * len(document) / len(RENDERER._template.plain.encode(document))
        assert max(places) - min(places) < 1.1 * read
        assert all(text.startswith("The") for text in texts(ranked, asked)[0][1:-1] if side == "end")


async def test_a_document_in_windows_has_spans_everywhere() -> None:
    document = f"{FILLER} " * 40 + ANSWER
    asked = request(document, long_documents="windows")
    ranked = await rank_once(asked, FakeFleet(2, by_words))
    assert ranked.results[0].windows > 1
    assert texts(ranked, asked) == [[ANSWER]]


async def test_limits_of_the_configuration_hold() -> None:
    config = CONFIG.model_copy(update={"evidence": EvidenceConfig(max_documents=1, max_sentences=2)})
    asked = request(*[f"{ANSWER} {OTHER} {FILLER} {number}" for number in range(3)], spans=SpanTerms(threshold=0.0))
    ranked = await rank_once(asked, FakeFleet(1, by_words), config)
    assert [len(one.spans) for one in ranked.results] == [2, 0, 0]
    assert ranked.spans_unscored == ()


async def test_a_list_answers_without_spans_when_there_is_no_time_for_them() -> None:
    """The ranking is there before the deadline, and says so."""
    forward = movable_clock()

    async def act(call: Call) -> EngineScores:
        if call.number == 0:
            return await by_words(call)
        forward(4.8)  # of 5: what is left is the answer's
        return await never(call)

    ranked = await rank_once(request(f"{OTHER} {ANSWER}", FILLER), FakeFleet(1, act))
    assert [one.index for one in ranked.results] == [0, 1]
    assert all(one.spans == () for one in ranked.results)
    assert (ranked.spans_unscored, ranked.unscored) == ((0, 1), ())


async def test_no_work_is_begun_without_time_for_it() -> None:
    forward = movable_clock()

    async def act(call: Call) -> EngineScores:
        forward(4.8)
        return await by_words(call)

    ranked = await rank_once(request(f"{OTHER} {ANSWER}"), fleet := FakeFleet(1, act))
    assert (len(fleet.calls), ranked.spans_unscored) == (1, (0,))


async def test_a_document_with_all_its_sentences_keeps_its_spans_in_a_partial_answer() -> None:
    async def act(call: Call) -> EngineScores:
        found = await by_words(call)
        if call.number == 1:
            found.scored[-1] = False  # the last sentence of the second document
        return found

    asked = request(f"{ANSWER} {FILLER}", f"{FILLER} {OTHER}")
    ranked = await rank_once(asked, FakeFleet(1, act))
    assert texts(ranked, asked) == [[ANSWER], []]
    assert ranked.spans_unscored == (1,)


async def test_a_replica_that_dies_among_sentences_is_not_noticed() -> None:
    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            raise ReplicaLostError
        return await by_words(call)

    asked = request(f"{OTHER} {ANSWER}")
    ranked = await rank_once(asked, FakeFleet(2, act))
    assert texts(ranked, asked) == [[ANSWER]]
    assert ranked.record.retries == 1


async def test_a_client_that_hangs_up_among_sentences_leaves_nothing_behind() -> None:
    async def act(call: Call) -> EngineScores:
        return await (by_words if call.number == 0 else never)(call)

    ranker = Ranker(CONFIG, RENDERER, fleet := FakeFleet(1, act))
    task = asyncio.create_task(rank(ranker, request(f"{OTHER} {ANSWER}")))
    await until(lambda: len(fleet.calls) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fleet.calls[1].cancelled
    require_idle(ranker, fleet)


async def test_a_list_with_spans_is_admitted_with_what_they_will_take() -> None:
    """And counted with what they took, once it is known."""
    seen: list[int] = []

    async def act(call: Call) -> EngineScores:
        seen.append(ranker.admission.tokens_in_flight)
        return await by_length(call)

    expected = []
    for spans in (None, TERMS):
        seen.clear()
        ranker = Ranker(CONFIG, RENDERER, FakeFleet(1, act))
        await rank(ranker, request_for([f"{ANSWER} {OTHER} {FILLER}"], spans=spans))
        expected.append(seen[0])
    assert expected[1] > 1.5 * expected[0]
    assert seen[-1] > expected[0]


async def test_spans_are_on_the_scale_of_the_family() -> None:
    renderer = PromptRenderer(DEMO_MODEL, 256, CONFIG.model.instruction, scale=5)
    ranked = await rank_once(request(f"{OTHER} {ANSWER}"), FakeFleet(1, by_words), CONFIG, renderer)
    [span] = ranked.results[0].spans
    assert span.relevance_score == pytest.approx(1 / (1 + np.exp(-span.log_odds / 5)))
