"""A double at the seam `scatter.Fleet`: real placement, but what a replica does is what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reranker.ranking.placement import Placement
from reranker.ranking.scatter import Dispatch, HandOverError, Scatter
from reranker.record import RequestRecord, ShardRecord
from reranker.types import EngineScores, ReplicaLoad, ServedModel, Shard, ShardScores, ShardTerms

HEAD = np.array([1, 2, 3], dtype=np.int32)


@dataclass(slots=True)
class Call:
    """One shard at one replica."""

    number: int
    """Of the call, from 0."""
    shard: Shard
    replica: str
    weight: float
    timeout_s: float
    tried: frozenset[str]
    """Replicas the shard was sent to before."""
    cancelled: bool = False


Act: TypeAlias = Callable[[Call], Awaitable[EngineScores]]


def scores(*logits: float, missing: Sequence[int] = ()) -> EngineScores:
    """These logits, scored but for the pairs at the places in `missing`."""
    scored = np.ones(len(logits), dtype=np.bool_)
    scored[list(missing)] = False
    return EngineScores(np.array(logits, dtype=np.float32), scored)


async def by_length(call: Call) -> EngineScores:
    """Longer documents score higher: an order the test can foresee."""
    await asyncio.sleep(0)
    return scores(*np.diff(call.shard.offsets).tolist())


async def never(call: Call) -> EngineScores:
    """Wait until somebody cancels it."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def movable_clock() -> Callable[[float], None]:
    """Let the running loop's time be moved forward, so that no test has to wait; gives what moves it, by seconds."""
    loop = asyncio.get_running_loop()
    real, ahead_s = loop.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s += seconds

    loop.time = lambda: real() + ahead_s  # type: ignore[method-assign]
    return forward


class FakeFleet:
    """So many replicas, each of which does what `act` says."""

    def __init__(
        self, replicas: int = 1, act: Act = by_length, clock: Callable[[], float] = lambda: 0.0, speed: float = 0
    ) -> None:
        """`speed`: in tokens/s, as each says. 0: it is not known."""
        self.act = act
        self.calls: list[Call] = []
        self.placement = Placement(clock, seed=0)
        self.names = [f"replica-{number}" for number in range(replicas)]
        self.models: dict[str, ServedModel] = {}
        self.leaving = False
        self.hold("model")
        for name in self.names if speed else ():
            self.placement.note_load(name, ReplicaLoad(0, speed))

    def hold(self, model: str, *replicas: str, known: bool = True) -> None:
        """Have these replicas, or all, hold a model from now on; not `known`: nobody was told."""
        self.models |= dict.fromkeys(replicas or self.names, ServedModel(model, f"{model}'s name", "takes", model))
        if known:
            self.live(*self.names)

    def live(self, *replicas: str) -> None:
        """Have these replicas live, and say what they hold."""
        self.placement.set_live(replicas, {name: self.models[name] for name in replicas})

    @property
    def replicas_used(self) -> list[str]:
        return [call.replica for call in self.calls]

    async def ready(self) -> None:
        if self.leaving and not self.placement.live_replicas:
            raise HandOverError
        while not self.placement.live_replicas:  # noqa: ASYNC110 - a double; a few turns of the loop
            await asyncio.sleep(0.001)

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        assert terms.timeout_s is not None
        tried = frozenset(call.replica for call in self.calls if call.shard is shard)
        call = Call(len(self.calls), shard, replica, terms.weight, terms.timeout_s, tried)
        self.calls.append(call)
        model = self.models[replica].identity
        try:
            return ShardScores(await self.act(call), replica, ReplicaLoad(), model)
        except asyncio.CancelledError:
            call.cancelled = True
            raise

    def require_idle(self) -> None:
        """Nothing is counted, and no task but the test's own is left: what any list must leave behind."""
        self.placement.check_integrity()
        assert self.placement.shards_in_flight == 0
        assert sum(self.placement.shortlist(1).loads) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


def one_pair_shards(count: int) -> list[Shard]:
    """Shards of one pair each; the document of shard i has i + 1 tokens."""
    empty = HEAD[:0]
    return [Shard(HEAD, empty, np.zeros(i + 1, dtype=np.int32), np.array([0, i + 1])) for i in range(count)]


@dataclass
class Gathered:
    """What came back of a list, and what it took."""

    answers: list[ShardScores | None]
    record: RequestRecord

    @property
    def retries(self) -> int:
        return self.record.retries

    @property
    def hedges(self) -> int:
        return self.record.hedges


async def gather(
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
        return Gathered(await scatter.gather(one_pair_shards(shards), record.shards, dispatch), record)
    finally:
        scatter.check_integrity(0)
        assert isinstance(scatter.fleet, FakeFleet)
        scatter.fleet.require_idle()
