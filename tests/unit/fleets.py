"""A double at the seam `scatter.Fleet`: real placement, but what a replica does is what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reranker.ranking.placement import LoadBoard, Route, Survey
from reranker.types import EngineScores, ReplicaLoad, Shard, ShardScores


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

    def __init__(self, replicas: int = 1, act: Act = by_length) -> None:
        self.act = act
        self.model = "model"
        self.calls: list[Call] = []
        self.board = LoadBoard(clock=lambda: 0.0, seed=0)
        self.names = [f"replica-{number}" for number in range(replicas)]
        self.board.set_live(self.names)

    @property
    def replicas_used(self) -> list[str]:
        return [call.replica for call in self.calls]

    @property
    def live_replicas(self) -> int:
        return self.board.live_replicas

    def survey(self, shards: int) -> Survey:
        return self.board.survey(shards)

    async def score(self, shard: Shard, weight: float, timeout_s: float, route: Route) -> ShardScores:
        tried = frozenset(route.tried)
        with self.board.shard(route, shard.work_tokens) as assignment:
            replica = self.board.choose(assignment.number, self.names)
            call = Call(len(self.calls), shard, replica, weight, timeout_s, tried)
            self.calls.append(call)
            try:
                return ShardScores(await self.act(call), replica, ReplicaLoad(), self.model)
            except asyncio.CancelledError:
                call.cancelled = True
                raise

    def require_idle(self) -> None:
        """Nothing is booked, and no task but the test's own is left: what any list must leave behind."""
        self.board.check_integrity()
        assert self.board.shards_in_flight == 0
        assert sum(self.board.survey(1).loads) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
