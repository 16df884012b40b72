"""One slow replica must not make every list slow; and trying to help must not make everything slow either."""

from __future__ import annotations

import asyncio
import time

import pytest

from reranker.config import ScatterConfig
from reranker.errors import ReplicaLostError
from reranker.ranking import scatter as scattering
from reranker.ranking.scatter import Budget, Scatter
from reranker.record import ShardRecord
from reranker.types import EngineScores
from tests.unit.fleets import (
    Act,
    Call,
    FakeFleet,
    by_length,
    gather,
    movable_clock,
    never,
    scores,
)

AT_ONCE = ScatterConfig(hedge_after=1.001)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is late after a millisecond: the doubles answer at once."""
    for name in ("_LEAST_LAG_S", "_SILENT_S", "_LOOK_S", "_ASK_AGAIN_S"):
        monkeypatch.setattr(scattering, name, 0.001)


def _hanging(*calls: int) -> Act:
    """Replicas that never answer these calls."""

    async def act(call: Call) -> EngineScores:
        return await (never(call) if call.number in calls else by_length(call))

    return act


async def test_shard_that_lags_behind_is_sent_to_a_second_replica_and_the_first_answer_counts() -> None:
    fleet, records = FakeFleet(4, _hanging(2)), [ShardRecord() for _ in range(3)]
    gathered = await gather(Scatter(fleet, AT_ONCE), 3, records=records)
    assert [[(one.hedge, one.outcome) for one in record.attempts] for record in records] == [
        [(False, "answered")],
        [(False, "answered")],
        [(False, "dropped"), (True, "answered")],
    ]
    assert [one and one.scores.logits.tolist() for one in gathered.answers] == [[1], [2], [3]]
    assert (gathered.hedges, gathered.retries) == (1, 0)
    late, second = fleet.calls[2:]
    assert late.cancelled
    assert second.replica not in fleet.replicas_used[:3]
    assert gathered.answers[2] is not None
    assert gathered.answers[2].replica == second.replica


async def test_slower_attempt_is_cancelled_at_once_and_not_when_the_list_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its work is for nothing, and other lists wait for it."""
    monkeypatch.setattr(scattering, "_SILENT_S", 60)
    fleet = FakeFleet(4)

    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            return await never(call)
        while call.number == 3 and not fleet.calls[1].cancelled:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        return await by_length(call)

    fleet.act = act
    gathered = await gather(Scatter(fleet, ScatterConfig(hedge_after=1.001, hedge_ratio=0.01)), 4)  # one, no more
    assert all(gathered.answers)
    assert gathered.hedges == 1


async def test_first_replica_may_still_win_and_the_second_attempt_is_cancelled() -> None:
    second_began = asyncio.Event()

    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            await second_began.wait()
        elif call.number == 2:
            second_began.set()
            return await never(call)
        return await by_length(call)

    fleet = FakeFleet(3, act)
    gathered = await gather(Scatter(fleet, AT_ONCE), 2)
    assert gathered.answers[1] is not None
    assert gathered.answers[1].replica == fleet.calls[1].replica
    assert [call.cancelled for call in fleet.calls] == [False, False, True]


@pytest.mark.parametrize("second", ["scores", "is lost"])
async def test_attempts_that_end_in_the_same_moment_count_once(second: str) -> None:
    """In whatever order they are seen: what the other one says changes nothing once there is an answer."""
    now = asyncio.Event()

    async def act(call: Call) -> EngineScores:
        if call.number == 2:
            asyncio.get_running_loop().call_soon(now.set)
        if call.number:
            await now.wait()
        if call.number == 2 and second == "is lost":
            raise ReplicaLostError
        return scores(call.number)

    for _ in range(5):  # the order is that of a set
        now.clear()
        fleet = FakeFleet(3, act)
        gathered = await gather(Scatter(fleet, AT_ONCE), 2)
        assert gathered.answers[1] is not None
        assert gathered.answers[1].replica in fleet.replicas_used[1:]
        assert (len(fleet.calls), gathered.retries, gathered.hedges) == (3, 0, 1)


async def test_no_shard_is_sent_a_third_time_for_being_late() -> None:
    fleet = FakeFleet(4, _hanging(1, 2))
    with pytest.raises(TimeoutError):
        await gather(Scatter(fleet, AT_ONCE), 2, 0.03)
    assert len(fleet.calls) == 3


async def test_nothing_is_late_while_most_shards_are_not_answered() -> None:
    """It is not this replica that is slow, then, but all of them."""
    fleet = FakeFleet(4, _hanging(1, 2))
    with pytest.raises(TimeoutError):
        await gather(Scatter(fleet, AT_ONCE), 3, 0.03)
    assert len(fleet.calls) == 3


async def test_whole_list_in_one_shard_is_not_sent_twice_where_no_speed_is_known() -> None:
    """There is nothing to compare it with."""
    fleet = FakeFleet(2, never)
    with pytest.raises(TimeoutError):
        await gather(Scatter(fleet, AT_ONCE), 1, 0.03)
    assert len(fleet.calls) == 1


async def test_whole_list_in_one_shard_is_sent_to_another_replica_when_its_own_time_is_over() -> None:
    """A hung engine costs a short list its expected time, not the time until somebody notices."""
    fleet = FakeFleet(2, _hanging(0), speed=1e6)
    scatter = Scatter(fleet, ScatterConfig(hedge_ratio=1))
    gathered = await gather(scatter, 1)
    assert (gathered.hedges, fleet.calls[0].cancelled) == (1, True)
    for _ in range(5):  # and the next lists do not go there, however idle it looks
        await gather(scatter, 1)
    assert fleet.replicas_used.count(fleet.replicas_used[0]) == 1


async def test_replica_that_is_silent_while_others_answer_is_taken_to_hang() -> None:
    """Else each list with a shard there would have it sent a second time, and how many may be is limited."""
    fleet = FakeFleet(4, _hanging(1), time.monotonic)
    scatter = Scatter(fleet, AT_ONCE)
    await gather(scatter, 2)
    for _ in range(5):
        await gather(scatter, 3)
    assert fleet.replicas_used.count(fleet.replicas_used[1]) == 1


async def test_lists_that_wait_for_a_replica_go_elsewhere_once_another_one_finds_that_it_hangs() -> None:
    fleet = FakeFleet(2, _hanging(0), time.monotonic)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, lambda: fleet.placement.suspect(fleet.calls[0].replica))
    assert (await gather(Scatter(fleet, AT_ONCE), 1)).hedges == 1


async def test_overdue_shard_is_sent_elsewhere_when_all_hedges_are_spent() -> None:
    """Its replica is as good as lost, and counts as one: of hedges there are few, for those that are only slow."""
    config = ScatterConfig(hedge_ratio=0)
    assert (await gather(Scatter(FakeFleet(2, _hanging(0), speed=1e6), config), 1)).hedges == 1
    with pytest.raises(TimeoutError):
        await gather(Scatter(FakeFleet(2, _hanging(0)), config), 1, 0.03)


async def test_list_is_answered_though_most_of_its_replicas_hang() -> None:
    gathered = await gather(Scatter(FakeFleet(4, _hanging(0, 1), speed=1e6), AT_ONCE), 3)
    assert all(gathered.answers)
    assert gathered.hedges == 2


async def test_replica_that_answers_others_meanwhile_is_busy_and_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeFleet(2, never, speed=1e6)
    monkeypatch.setattr(fleet.placement, "answered_s", lambda replica: asyncio.get_running_loop().time())
    with pytest.raises(TimeoutError):
        await gather(Scatter(fleet, AT_ONCE), 1, 0.03)
    assert len(fleet.calls) == 1


async def test_hedge_that_the_budget_refuses_is_asked_for_again() -> None:
    fleet, scatter = FakeFleet(4, _hanging(1)), Scatter(FakeFleet(), AT_ONCE)
    scatter.fleet = fleet
    while scatter.hedges.spend():
        pass
    asyncio.get_running_loop().call_later(0.02, lambda: setattr(scatter, "hedges", Budget(0.05, 5)))
    gathered = await gather(scatter, 2)
    assert all(gathered.answers)
    assert gathered.hedges == 1


@pytest.mark.parametrize(
    ("replicas", "config"), [(1, AT_ONCE), (4, ScatterConfig(hedge_after=None))], ids=["one replica", "switched off"]
)
async def test_without_a_second_replica_or_when_switched_off_nothing_is_sent_twice(
    replicas: int, config: ScatterConfig
) -> None:
    fleet = FakeFleet(replicas, _hanging(1))
    with pytest.raises(TimeoutError):
        await gather(Scatter(fleet, config), 2, 0.03)
    assert len(fleet.calls) == 2


async def test_shards_sent_twice_are_bounded_over_all_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every replica is slow, a second copy of everything would make it slower still."""
    monkeypatch.setattr(scattering, "_SILENT_S", 60)

    async def last_hangs(call: Call) -> EngineScores:
        return await (never(call) if len(call.shard.tokens) == 2 else by_length(call))

    fleet = FakeFleet(4, last_hangs)
    scatter = Scatter(fleet, ScatterConfig(hedge_after=1.001, hedge_ratio=0.02))  # 2 saved up, and one earned in 50
    for _ in range(10):
        with pytest.raises(TimeoutError):
            await gather(scatter, 2, 0.01)
    assert len(fleet.calls) == 20 + 2


async def test_lost_replica_whose_shard_is_under_way_elsewhere_costs_no_retry() -> None:
    second_began = asyncio.Event()

    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            await second_began.wait()
            raise ReplicaLostError
        if call.number == 2:
            second_began.set()
            await asyncio.sleep(0.002)
        return await by_length(call)

    gathered = await gather(Scatter(FakeFleet(3, act), AT_ONCE), 2)
    assert (gathered.hedges, gathered.retries) == (1, 0)
    assert all(gathered.answers)


async def test_shard_that_becomes_late_in_the_last_moment_does_not_end_the_wait_for_its_partial_answer() -> None:
    """There is no time for a second replica, but there is for what the first one has."""
    forward = movable_clock()

    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            forward(85)
            for _ in range(5):
                await asyncio.sleep(0)
        return await by_length(call)

    fleet = FakeFleet(3, act)
    config = ScatterConfig(hedge_after=1.001, reply_margin_s=60)  # a fifth of the time: 20 of 100 s
    gathered = await gather(Scatter(fleet, config), 2, 100, allow_partial=True)
    assert all(gathered.answers)
    assert len(fleet.calls) == 2
