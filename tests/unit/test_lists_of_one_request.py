"""Several lists of one request: one permit, one deadline, all or none."""

from __future__ import annotations

import asyncio

import pytest

from reranker.config import AdmissionConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, RequestTooLargeError, ScoringError
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, EngineScores, Ranking, RankRequest
from tests.unit.fleets import Call, FakeFleet, by_length
from tests.unit.rankers import BODY_BYTES, CONFIG, RENDERER, TEXTS, Gate, require_idle, until


def _lists(count: int, documents: int = 5) -> list[RankRequest]:
    return [RankRequest(f"query {number}", TEXTS[: number % documents + 1]) for number in range(count)]


def _record(body_bytes: int = BODY_BYTES) -> RequestRecord:
    record = RequestRecord("an-id")
    record.body_bytes = body_bytes
    return record


async def _rank(lists: list[RankRequest], fleet: FakeFleet, config: RerankerConfig = CONFIG) -> list[Ranking]:
    ranker = Ranker(config, RENDERER, fleet)
    try:
        return await ranker.rank(lists, ANONYMOUS, _record())
    finally:
        require_idle(ranker, fleet)


async def test_rankings_come_in_the_order_of_the_lists_and_each_is_what_it_is_alone() -> None:
    lists = _lists(40)
    together = await _rank(lists, FakeFleet(2))
    alone = [(await _rank([one], FakeFleet(2)))[0] for one in lists]
    assert together == alone


async def test_one_permit_has_the_tokens_of_all_lists() -> None:
    """Not sixteen lists at once let in one by one, and the seventeenth refused half-way."""
    gate = Gate()
    fleet = FakeFleet(1, gate)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    task = asyncio.create_task(ranker.rank(_lists(3), ANONYMOUS, _record()))
    await until(lambda: len(fleet.calls) == 3)
    assert ranker.admission.lists_in_flight == 1
    assert ranker.admission.tokens_in_flight == sum(call.shard.work_tokens for call in fleet.calls)
    gate.open()
    await task
    require_idle(ranker, fleet)


async def test_lists_that_are_too_much_together_are_refused() -> None:
    lists = _lists(3, documents=1)
    tokens = sum(RENDERER.render(one.query, one.documents).prompts.work_tokens for one in lists)
    for limit, fits in ((tokens, True), (tokens - 1, False)):
        config = CONFIG.model_copy(update={"admission": AdmissionConfig(max_tokens_in_flight=limit)})
        if fits:
            assert len(await _rank(lists, FakeFleet(1), config)) == 3
        else:
            with pytest.raises(RequestTooLargeError, match=f"{tokens} tokens"):
                await _rank(lists, FakeFleet(1), config)


async def test_first_failure_cancels_the_others() -> None:
    async def fail_the_fourth(call: Call) -> EngineScores:
        if call.number == 3:
            raise ScoringError
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    fleet = FakeFleet(1, fail_the_fourth)
    with pytest.raises(ScoringError):
        await _rank(_lists(6), fleet)
    assert sum(call.cancelled for call in fleet.calls) >= 3


async def test_list_whose_turn_does_not_come_in_time_fails_the_request() -> None:
    async def slow(call: Call) -> EngineScores:
        await asyncio.sleep(0.02)
        return await by_length(call)

    hurried = CONFIG.model_copy(update={"limits": CONFIG.limits.model_copy(update={"timeout_s": 0.1})})
    with pytest.raises(DeadlineExceededError):
        await _rank(_lists(200), FakeFleet(1, slow), hurried)
