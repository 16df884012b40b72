"""Every shard is answered, elsewhere if it must be; one that cannot be ends the list at once, and leaves no task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from reranker.config import ScatterConfig
from reranker.errors import EngineFailedError, InvalidScoreError, ReplicaLostError
from reranker.ranking.scatter import Dispatch, Scatter
from reranker.record import RequestRecord, ShardRecord
from reranker.types import EngineScores, Shard, ShardScores
from tests.unit.fleets import Act, Call, FakeFleet, by_length, movable_clock, never, scores

HEAD = np.array([1, 2, 3], dtype=np.int32)
PLENTY_S = 5.0


def _shards(count: int) -> list[Shard]:
    """Of one pair each; the document of shard i has i + 1 tokens."""
    empty = HEAD[:0]
    return [Shard(HEAD, empty, np.zeros(i + 1, dtype=np.int32), np.array([0, i + 1])) for i in range(count)]


@dataclass
class Gathered:
    """What came back, and what it took."""

    answers: list[ShardScores | None]
    record: RequestRecord

    @property
    def retries(self) -> int:
        return self.record.retries

    @property
    def hedges(self) -> int:
        return self.record.hedges


async def _gather(
    scatter: Scatter,
    shards: int,
    timeout_s: float = 5.0,
    *,
    allow_partial: bool = False,
    records: Sequence[ShardRecord] | None = None,
) -> Gathered:
    """Send a list, and see that nothing is left behind, however it ends."""
    record = RequestRecord()
    record.shards = list(records) if records is not None else [ShardRecord() for _ in range(shards)]
    dispatch = Dispatch(asyncio.get_running_loop().time() + timeout_s, weight=2.0, allow_partial=allow_partial)
    try:
        return Gathered(await scatter.gather(_shards(shards), record.shards, dispatch), record)
    finally:
        scatter.check_integrity(0)
        assert isinstance(scatter.fleet, FakeFleet)
        scatter.fleet.require_idle()


def _logits(gathered: Gathered) -> list[float | None]:
    return [None if one is None else float(one.scores.logits[0]) for one in gathered.answers]


def _losing(*calls: int) -> Act:
    """Replicas that are lost with these calls, and score the others."""

    async def act(call: Call) -> EngineScores:
        if call.number in calls:
            raise ReplicaLostError
        return await by_length(call)

    return act


async def test_every_shard_has_its_own_answer() -> None:
    fleet = FakeFleet(3)
    gathered = await _gather(Scatter(fleet, ScatterConfig()), 3)
    assert _logits(gathered) == [1, 2, 3]
    assert (gathered.retries, gathered.hedges) == (0, 0)
    assert len(set(fleet.replicas_used)) == 3
    assert all(call.weight == 2.0 and 0 < call.timeout_s <= PLENTY_S for call in fleet.calls)


async def test_list_without_shards_is_answered() -> None:
    """As of a portion that only repeats documents of the one before it."""
    assert (await _gather(Scatter(FakeFleet(1), ScatterConfig()), 0)).answers == []


async def test_shard_of_a_lost_replica_is_sent_elsewhere() -> None:
    fleet = FakeFleet(3, _losing(0, 2))
    gathered = await _gather(Scatter(fleet, ScatterConfig()), 2)
    assert _logits(gathered) == [1, 2]
    assert gathered.retries == 2
    first, again, third = (call for call in fleet.calls if len(call.shard.tokens) == 1)
    assert not first.tried
    assert again.tried == {first.replica}
    assert third.tried == {first.replica, again.replica}
    assert third.replica not in third.tried


async def test_shard_that_takes_every_replica_down_is_given_up() -> None:
    """It may be the shard itself: after so many replicas the list fails, and the others live."""

    async def lose(call: Call) -> EngineScores:
        raise ReplicaLostError

    fleet = FakeFleet(8, lose)
    with pytest.raises(ReplicaLostError, match="3 times in a row"):
        await _gather(Scatter(fleet, ScatterConfig(max_attempts=3)), 1)
    assert len(set(fleet.replicas_used)) == 3


async def test_shards_sent_again_are_bounded_over_all_lists() -> None:
    """When every replica breaks, the service must not send everything many times over."""

    async def lose(call: Call) -> EngineScores:
        raise ReplicaLostError

    fleet = FakeFleet(2, lose)
    scatter = Scatter(fleet, ScatterConfig(max_attempts=4, retry_ratio=0.1, retry_burst=5))
    for _ in range(20):
        with pytest.raises(ReplicaLostError):
            await _gather(scatter, 1)
    assert len(fleet.calls) <= 20 + 5 + 20 * 0.1


async def test_attempt_that_ray_cancels_by_itself_is_a_lost_replica() -> None:
    """So Ray reports a shard whose replica was ended; nobody here has cancelled anything."""

    async def act(call: Call) -> EngineScores:
        if call.number == 0:
            raise asyncio.CancelledError
        return await by_length(call)

    gathered = await _gather(Scatter(FakeFleet(2, act), ScatterConfig()), 1)
    assert (_logits(gathered), gathered.retries) == ([1], 1)


async def test_other_errors_fail_the_list_at_once_and_cancel_the_rest() -> None:
    """Another replica would say the same."""

    async def act(call: Call) -> EngineScores:
        if call.number == 1:
            raise InvalidScoreError(0, 1, 1)
        return await never(call)

    fleet = FakeFleet(3, act)
    with pytest.raises(InvalidScoreError):
        await _gather(Scatter(fleet, ScatterConfig()), 3)
    assert [call.cancelled for call in fleet.calls] == [True, False, True]


@pytest.mark.parametrize("allow_partial", [False, True])
async def test_time_up_cancels_everything(allow_partial: bool) -> None:
    async def act(call: Call) -> EngineScores:
        return await (never(call) if call.number else by_length(call))

    fleet = FakeFleet(3, act)
    scatter = Scatter(fleet, ScatterConfig(hedge_after=None))
    if allow_partial:
        assert _logits(await _gather(scatter, 3, 0.03, allow_partial=True)) == [1, None, None]
    else:
        with pytest.raises(TimeoutError):
            await _gather(scatter, 3, 0.03)
    assert [call.cancelled for call in fleet.calls] == [False, True, True]


async def test_list_whose_time_is_up_already_is_not_sent() -> None:
    for allow_partial in (False, True):
        fleet = FakeFleet(1)
        scatter = Scatter(fleet, ScatterConfig())
        if allow_partial:
            assert _logits(await _gather(scatter, 2, -0.01, allow_partial=True)) == [None, None]
        else:
            with pytest.raises(TimeoutError):
                await _gather(scatter, 2, -0.01)
        assert not fleet.calls


async def test_replica_that_had_no_time_for_every_pair_fails_the_list_unless_part_of_it_is_wanted() -> None:
    async def act(call: Call) -> EngineScores:
        return scores(5, missing=[0])

    with pytest.raises(TimeoutError):
        await _gather(Scatter(FakeFleet(1, act), ScatterConfig()), 1)
    gathered = await _gather(Scatter(FakeFleet(1, act), ScatterConfig()), 1, allow_partial=True)
    assert [one and one.scores.scored.tolist() for one in gathered.answers] == [[False]]


@pytest.mark.parametrize(("timeout_s", "margin_s"), [(PLENTY_S, 0.05), (0.1, 0.02)])
async def test_replicas_get_a_little_less_time_where_part_of_a_list_is_wanted(
    timeout_s: float, margin_s: float
) -> None:
    """What they have by then must still come here: 50 ms before the deadline, at most a fifth of the time."""
    fleet = FakeFleet(1)
    await _gather(Scatter(fleet, ScatterConfig(reply_margin_s=0.05)), 1, timeout_s, allow_partial=True)
    assert fleet.calls[0].timeout_s <= timeout_s - margin_s
    await _gather(Scatter(fleet, ScatterConfig(reply_margin_s=0.05)), 1, timeout_s)
    assert fleet.calls[1].timeout_s > timeout_s - margin_s


async def test_replica_lost_in_the_last_moment_does_not_take_the_others_parts_with_it() -> None:
    """There is no time to send its shard again, but there is to wait for the others' partial answers."""
    forward, lost = movable_clock(), asyncio.Event()

    async def act(call: Call) -> EngineScores:
        if call.number == 0:
            forward(85)
            lost.set()
            raise ReplicaLostError
        await lost.wait()
        await asyncio.sleep(0.001)
        return await by_length(call)

    config = ScatterConfig(reply_margin_s=60, hedge_after=None)  # a fifth of the time: 20 of 100 s
    gathered = await _gather(Scatter(FakeFleet(2, act), config), 2, 100, allow_partial=True)
    assert _logits(gathered) == [None, 2]


async def test_list_that_is_cancelled_takes_its_attempts_with_it() -> None:
    fleet = FakeFleet(2, never)
    scatter = Scatter(fleet, ScatterConfig())
    task = asyncio.create_task(_gather_unchecked(scatter))
    await _until_sent(fleet, 3)
    with pytest.raises(RuntimeError, match="1 portions being sent"):
        scatter.check_integrity(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(call.cancelled for call in fleet.calls)
    scatter.check_integrity(0)
    fleet.require_idle()


async def test_list_that_is_cancelled_twice_is_forgotten_too() -> None:
    """By the client and by the deadline, say, while a replica is slow to let go."""
    let_go = asyncio.Event()

    async def slow_to_end(call: Call) -> EngineScores:
        try:
            return await never(call)
        finally:
            await let_go.wait()

    fleet = FakeFleet(1, slow_to_end)
    scatter = Scatter(fleet, ScatterConfig())
    task = asyncio.create_task(_gather_unchecked(scatter))
    await _until_sent(fleet, 3)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    scatter.check_integrity(0)


async def _gather_unchecked(scatter: Scatter) -> list[ShardScores | None]:
    dispatch = Dispatch(asyncio.get_running_loop().time() + PLENTY_S)
    return await scatter.gather(_shards(3), [ShardRecord() for _ in range(3)], dispatch)


async def _until_sent(fleet: FakeFleet, calls: int) -> None:
    while len(fleet.calls) < calls:  # noqa: ASYNC110 - a few turns of the loop
        await asyncio.sleep(0)


async def test_failed_engine_is_tried_elsewhere_like_a_lost_replica() -> None:
    async def act(call: Call) -> EngineScores:
        if call.number == 0:
            raise EngineFailedError
        return await by_length(call)

    gathered = await _gather(Scatter(FakeFleet(2, act), ScatterConfig()), 1)
    assert gathered.retries == 1
