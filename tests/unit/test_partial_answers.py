"""When time is up a list is answered whole, in part where that is wanted, or not at all: never with invented scores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from reranker.config import LimitsConfig, ScatterConfig
from reranker.errors import DeadlineExceededError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CUT_THE_END, CuttingPolicy, PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.types import EngineScores, RankRequest, RenderedList
from tests.unit.fleets import Act, Call, FakeFleet, by_length, movable_clock, never, scores
from tests.unit.rankers import CONFIG, RENDERER, Ranked, rank, rank_once, require_idle, until

LONG_DOCUMENT = " ".join(f"china {number}" for number in range(200))
"""Too long for one prompt, and no two windows of it are alike."""
HALF_A_LONG_LIST = 120_000
"""Characters of its distinct documents: so many are rendered in portions."""


def _documents(count: int) -> tuple[str, ...]:
    """Of 2 to 8 tokens, no two alike."""
    return tuple("capital " * (i % 7 + 1) + f"{i:02d}" for i in range(count))


async def _rerank(
    request: RankRequest, fleet: FakeFleet, *, renderer: PromptRenderer = RENDERER, timeout_s: float = 5
) -> Ranked:
    config = CONFIG.model_copy(
        update={"scatter": ScatterConfig(hedge_after=None), "limits": LimitsConfig(timeout_s=timeout_s)}
    )
    return await rank_once(request, fleet, config, renderer)


def _leaving_out(*documents: int) -> Act:
    """A replica that has no time for these pairs of a list in one shard."""

    async def act(call: Call) -> EngineScores:
        full = await by_length(call)
        return scores(*full.logits.tolist(), missing=documents)

    return act


async def test_documents_without_a_score_are_listed_and_not_ranked() -> None:
    request = RankRequest("q", _documents(6), allow_partial=True)
    ranking = await _rerank(request, FakeFleet(1, _leaving_out(1, 5)))
    assert ranking.unscored == (1, 5)
    assert [document.index for document in ranking.results] == [4, 3, 2, 0]
    whole = await _rerank(request, FakeFleet(1))
    assert whole.unscored == ()
    assert set(ranking.results) < set(whole.results)  # those that are there are what they would have been


async def test_shards_that_are_not_answered_in_time_leave_their_documents_unscored() -> None:
    async def act(call: Call) -> EngineScores:
        return await (never(call) if call.number % 2 else by_length(call))

    fleet = FakeFleet(4, act)
    ranking = await _rerank(RankRequest("q", _documents(60), allow_partial=True), fleet, timeout_s=0.2)
    answered = sum(len(call.shard) for call in fleet.calls if not call.cancelled)
    assert 0 < answered == len(ranking.results) == 60 - len(ranking.unscored)
    assert sorted([one.index for one in ranking.results] + list(ranking.unscored)) == list(range(60))
    assert ranking.replicas == sum(not call.cancelled for call in fleet.calls)


@pytest.mark.parametrize("allow_partial", [False, True])
async def test_list_without_any_score_is_given_up(allow_partial: bool) -> None:
    """An empty answer would look like one."""
    request = RankRequest("q", _documents(3), allow_partial=allow_partial)
    with pytest.raises(DeadlineExceededError):
        await _rerank(request, FakeFleet(1, _leaving_out(0, 1, 2)))
    with pytest.raises(DeadlineExceededError):
        await _rerank(request, FakeFleet(1, never), timeout_s=0.03)


async def test_part_of_a_list_is_never_given_to_those_who_did_not_ask_for_it() -> None:
    with pytest.raises(DeadlineExceededError):
        await _rerank(RankRequest("q", _documents(6)), FakeFleet(1, _leaving_out(5)))


async def test_document_is_unscored_when_one_of_its_windows_is() -> None:
    """The window that is missing may be the best one."""
    request = RankRequest(
        "q", (LONG_DOCUMENT, "capital " * 20), long_documents="windows", overlap_tokens=10, allow_partial=True
    )
    ranking = await _rerank(request, FakeFleet(1, _leaving_out(2)))
    assert ranking.pairs == 4
    assert ranking.unscored == (0,)
    assert [document.index for document in ranking.results] == [1]


async def test_long_document_is_scored_in_windows_and_counts_as_one() -> None:
    """The best window makes the document's score; the answer has one line for it and says what it took."""
    long = RankRequest("capital", (LONG_DOCUMENT, "capital " * 20), long_documents="windows", overlap_tokens=10)
    ranking = await _rerank(long, FakeFleet(2))
    lines = {document.index: document for document in ranking.results}
    assert set(lines) == {0, 1}
    assert lines[0].windows > 2
    assert lines[1].windows == 1
    assert ranking.pairs == lines[0].windows + 1
    assert ranking.windowed_documents == 1
    assert not any(document.truncated for document in ranking.results)
    whole = await _rerank(replace(long, long_documents="truncate"), FakeFleet(1))
    assert ranking.prompt_tokens > whole.prompt_tokens
    assert whole.truncated_documents == 1


async def test_identical_documents_are_scored_once_and_all_get_the_score() -> None:
    """Candidates of several retrievers overlap; what is the same must not be ranked apart."""
    documents = ("capital city", "capital", "capital city", "capital", "capital city", "beijing is the capital")
    fleet = FakeFleet(1)
    ranking = await _rerank(RankRequest("q", documents), fleet)
    assert ranking.pairs == sum(len(call.shard) for call in fleet.calls) == 3
    by_index = {one.index: one.relevance_score for one in ranking.results}
    assert by_index[0] == by_index[2] == by_index[4]
    assert by_index[1] == by_index[3]
    assert [one.index for one in ranking.results] == [5, 0, 2, 4, 1, 3]
    separate = RENDERER.render("q", documents).prompts
    assert ranking.prompt_tokens == separate.prompt_tokens  # billed as sent


def _long_list() -> tuple[str, ...]:
    """300 documents of 10 to 80 tokens; the second half repeats the first, but for the order."""
    half = ["capital " * (i % 70 + 10) + f"{i:03d}" for i in range(150)]
    half = [text + " " * (HALF_A_LONG_LIST // 150 - len(text)) for text in half]
    return (*half, *reversed(half))


async def test_list_in_portions_equals_the_list_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines start on the first portion while the rest is tokenized; nobody can tell from the answer."""
    request = RankRequest("which is longest", _long_list())
    fleet = FakeFleet(2)
    in_portions = await _rerank(request, fleet)
    monkeypatch.setattr("reranker.ranking.planning._LONG_CHARACTERS", 10**9)
    in_one_piece = await _rerank(request, FakeFleet(2))
    assert in_portions.results == in_one_piece.results
    assert (in_portions.pairs, in_one_piece.pairs) == (150, 150)
    assert in_portions.prompt_tokens == in_one_piece.prompt_tokens
    assert in_portions.shards > in_one_piece.shards
    assert len(in_portions.results) == 300


async def test_portions_that_time_does_not_suffice_for_are_unscored() -> None:
    """Time is up while the second portion is rendered; the first one's scores count."""
    forward, loop, answered = movable_clock(), asyncio.get_running_loop(), threading.Event()

    class UntilTimeIsUp(PromptRenderer):
        portions = 0

        def render(
            self,
            query: str,
            documents: Sequence[str],
            instruction: str | None = None,
            cutting: CuttingPolicy = CUT_THE_END,
        ) -> RenderedList:
            self.portions += 1
            if self.portions == 2:
                answered.wait()
                loop.call_soon_threadsafe(forward, 1_000)
            return super().render(query, documents, instruction, cutting)

    async def act(call: Call) -> EngineScores:
        loop.call_later(0.002, answered.set)
        return await by_length(call)

    renderer = UntilTimeIsUp(DEMO_MODEL, 256, CONFIG.model.instruction)
    request = RankRequest("q", _long_list(), allow_partial=True)
    ranking = await _rerank(request, FakeFleet(1, act), renderer=renderer, timeout_s=100)
    assert len(ranking.results) == 2 * ranking.pairs > 20
    assert ranking.unscored == tuple(range(ranking.pairs, 300 - ranking.pairs))
    answered.clear()
    renderer.portions = 0
    with pytest.raises(DeadlineExceededError):
        await _rerank(replace(request, allow_partial=False), FakeFleet(1, act), renderer=renderer, timeout_s=100)
    answered.set()  # time may have been up before the first answer: no thread is left waiting for one


async def test_books_agree_while_the_portions_of_one_list_are_on_their_way() -> None:
    fleet = FakeFleet(2, never)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    task = asyncio.create_task(rank(ranker, RankRequest("q", _long_list())))
    await until(lambda: len(ranker.scatter._running) >= 2)
    ranker.check_integrity()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    require_idle(ranker, fleet)
