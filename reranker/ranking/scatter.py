"""Send the shards of one list until each is answered. Knows neither Ray nor HTTP.

A shard goes elsewhere when its replica is lost, to a second replica when the first lags, and nowhere once time is up.
No task is left behind.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reranker.config import ScatterConfig
from reranker.errors import EngineFailedError, ReplicaLostError
from reranker.ranking.placement import Placement, Route
from reranker.record import Attempt, ShardRecord
from reranker.types import Shard, ShardScores, ShardTerms

_LEAST_LAG_S = 0.05  # a shard that took less is not late, however quick its siblings were: that much is noise
_SILENT_S = 0.5  # a replica that says nothing for less may only have paused, and what is expected of it is a guess
_LOOK_S = 0.25  # between two looks whether a shard is late; less than `_SILENT_S`
_ASK_AGAIN_S = 0.25  # until a hedge that the budget refused is asked for again


class HandOverError(Exception):
    """No replica takes the lists of this ingress any more, and it is leaving: another one can have them ranked."""


class Fleet(Protocol):
    """The replicas, and how to reach them."""

    placement: Placement  # of the live replicas

    async def ready(self) -> None:
        """Wait until a replica takes new lists; HandOverError if none will."""

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a live replica score a shard; cancelling the call stops the work there.

        EngineFailedError: the replica was lost, and another can score the shard. Any other error ends the list.
        """


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How the shards of one list are to be sent."""

    deadline_s: float  # on the running event loop's clock
    weight: float = 1.0  # share of the engines against other lists
    allow_partial: bool = False  # when time is up, the answers so far are given, and nothing is raised
    shortlist: Sequence[str] = ()  # the replicas that the list is offered. Empty: any
    request_id: str = ""
    list_id: str = ""  # see `ShardTerms`
    model: str | None = None  # identity of the model that scores all of the list. None: any


class Scatter:
    """Sends lists to a fleet, under budgets that all lists share."""

    def __init__(self, fleet: Fleet, config: ScatterConfig) -> None:
        self.fleet, self.config = fleet, config
        self.retries = Budget(config.retry_ratio, config.retry_burst)
        self.hedges = Budget(config.hedge_ratio, math.ceil(100 * config.hedge_ratio))
        self._running: set[_Gathering] = set()

    async def gather(
        self, shards: Sequence[Shard], records: Sequence[ShardRecord], dispatch: Dispatch
    ) -> list[ShardScores | None]:
        """Have the shards of one list scored, the heaviest first. None: not in time, where a partial answer is wanted.

        TimeoutError: time was up. ServiceError: a shard could not be scored anywhere; the others are cancelled.
        ModelGoneError: no replica holds the list's model any more.
        """
        gathering = _Gathering(self, shards, records, dispatch)
        self._running.add(gathering)
        try:
            await gathering.until_answered()
        except TimeoutError:
            if not dispatch.allow_partial:
                raise
        finally:
            self._running.discard(gathering)  # first: a second cancellation ends the wait below
            await gathering.stop()
        return [one.answer for one in gathering.shards]

    def check_integrity(self, lists_in_flight: int) -> None:
        """Raise RuntimeError if anything is being sent while no list is in flight; a list may come in portions."""
        if self._running and not lists_in_flight:
            raise RuntimeError(f"{len(self._running)} portions being sent, but no list in flight. This is a bug.")


@dataclass(slots=True)
class _Shard:
    """A shard, with the attempts that are under way for it."""

    shard: Shard
    route: Route
    record: ShardRecord
    attempts: dict[asyncio.Task[ShardScores], Attempt] = field(default_factory=dict)
    sent_s: float = 0.0  # last
    answer: ShardScores | None = None
    took_s: float = 0.0
    hedged: bool = False
    hedge_from_s: float = 0.0  # no hedge before that

    @property
    def only_attempt(self) -> Attempt:
        """That of a shard that is under way and was not hedged."""
        (attempt,) = self.attempts.values()
        return attempt


class _Gathering:
    """The shards of one list, until all are answered."""

    def __init__(
        self, scatter: Scatter, shards: Sequence[Shard], records: Sequence[ShardRecord], dispatch: Dispatch
    ) -> None:
        used: Counter[str] = Counter()
        pairs = zip(shards, records, strict=True)
        self.shards = [
            _Shard(shard, Route(used, dispatch.shortlist, model=dispatch.model), record) for shard, record in pairs
        ]
        self._scatter, self._dispatch = scatter, dispatch
        self._clock = asyncio.get_running_loop().time
        self._tasks: list[asyncio.Task[ShardScores]] = []
        # For a partial answer, replicas must send theirs a little before time is up.
        left_s = dispatch.deadline_s - self._clock()
        self._margin_s = min(scatter.config.reply_margin_s, left_s / 5) if dispatch.allow_partial else 0.0

    async def until_answered(self) -> None:
        for one in self.shards:
            self._scatter.retries.earn()
            self._scatter.hedges.earn()
            self._send(one)
        while under_way := {task: one for one in self.shards for task in one.attempts}:
            hedge_s, _ = self._next_hedge()
            left_s = min(self._dispatch.deadline_s - self._clock(), hedge_s - self._clock(), _LOOK_S)
            done, _ = await asyncio.wait(under_way, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._receive(under_way[task], task)
            if done:
                continue
            if self._clock() >= self._dispatch.deadline_s:
                raise TimeoutError
            hedge_s, late = self._next_hedge()  # anew: its replica may have answered others meanwhile
            if late is not None and self._clock() >= hedge_s:
                self._hedge(late)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for one in self.shards:
            one.record.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _left_s(self) -> float:
        """Seconds a replica has for its answer."""
        return self._dispatch.deadline_s - self._clock() - self._margin_s

    def _send(self, one: _Shard, *, hedge: bool = False) -> None:
        if self._left_s <= 0:  # what cannot finish is not started
            if self._dispatch.allow_partial:
                return  # the rest of the time is for the other shards' partial answers
            raise TimeoutError
        one.sent_s, attempt = self._clock(), one.record.send(hedge=hedge)
        task = asyncio.ensure_future(self._attempt(one, attempt))
        self._tasks.append(task)
        one.attempts[task] = attempt

    def _hedge(self, late: _Shard) -> None:
        attempt = late.only_attempt
        silent_s = self._clock() - self._silent_since_s(attempt)
        if hangs := silent_s > max(_SILENT_S, self._patience * (attempt.expected_s or 0)):
            self._scatter.fleet.placement.suspect(attempt.replica)
        # Who hangs is as good as lost.
        if self._scatter.hedges.spend() or (hangs and self._scatter.retries.spend()):
            late.hedged = True
            self._send(late, hedge=True)
        else:
            late.hedge_from_s = self._clock() + _ASK_AGAIN_S

    async def _attempt(self, one: _Shard, attempt: Attempt) -> ShardScores:
        fleet, dispatch = self._scatter.fleet, self._dispatch
        placement = fleet.placement
        await fleet.ready()
        with placement.send(one.route, one.shard.work_tokens) as replica:
            attempt.replica = replica
            attempt.expected_s = placement.expected_s(replica)
            terms = ShardTerms(dispatch.weight, self._left_s, placement.sender, dispatch.request_id, dispatch.list_id)
            began_s = self._clock()
            answer = await fleet.score(replica, one.shard, terms)
        in_engine_s = answer.scores.queue_s + answer.scores.engine_s
        placement.note_answer(replica, answer.load, max(0.0, self._clock() - began_s - in_engine_s))
        if dispatch.model not in (None, answer.model):  # it is not what it was said to be
            placement.note_identity(replica, answer.model)
            raise ReplicaLostError
        return answer

    def _receive(self, one: _Shard, task: asyncio.Task[ShardScores]) -> None:
        if one.answer is not None:  # the other attempt's came in the same moment
            return
        attempt = one.attempts.pop(task)
        # Cancelled, but not by us: so Ray reports a shard whose replica has ended.
        error = ReplicaLostError() if task.cancelled() else task.exception()
        if error is None:
            one.answer, one.took_s = task.result(), self._clock() - one.sent_s
            one.record.answered(attempt, one.answer.scores)
            if not (self._dispatch.allow_partial or one.answer.scores.scored.all()):
                raise TimeoutError
            for loser, other in one.attempts.items():
                loser.cancel()
                other.end("dropped")
            one.attempts.clear()
            return
        lost = isinstance(error, EngineFailedError)
        attempt.end("lost" if lost else "failed")
        if one.attempts:
            return  # the other attempt is still under way
        if not lost:
            raise error
        sent = len(one.record.attempts)
        if sent >= self._scatter.config.max_attempts or not self._scatter.retries.spend():
            raise ReplicaLostError(sent) from None
        self._send(one)

    def _next_hedge(self) -> tuple[float, _Shard | None]:
        """When a shard will be too late, and which.

        That is too far behind its siblings, once half of them are answered, or behind what is expected of its replica.
        """
        late = [one for one in self.shards if one.attempts and not one.hedged]
        factor = self._scatter.config.hedge_after
        if factor is None or not late or self._scatter.fleet.placement.live_replicas < 2:
            return math.inf, None
        took_s = [one.took_s for one in self.shards if one.answer is not None]
        half = len(took_s) >= len(self.shards) / 2
        lag_s = max(_LEAST_LAG_S, factor * statistics.median(took_s)) if half else math.inf

        def late_s(one: _Shard) -> float:
            return max(min(one.sent_s + lag_s, self._overdue_s(one)), one.hedge_from_s)

        first = min(late, key=late_s)
        return late_s(first), first

    def _overdue_s(self, late: _Shard) -> float:
        """When a shard is late by its replica's own measure: a second replica then has the rest of `hedge_after`.

        At once, if other lists find that the replica does not answer.
        """
        attempt, placement = late.only_attempt, self._scatter.fleet.placement
        if (suspected_s := placement.suspected_s(attempt.replica)) > attempt.sent_s:
            return suspected_s
        if attempt.expected_s is None:
            return math.inf
        return self._silent_since_s(attempt) + _SILENT_S + self._patience * attempt.expected_s

    @property
    def _patience(self) -> float:
        """How many times what was expected of it a replica may say nothing; a second one has the rest."""
        return (self._scatter.config.hedge_after or math.inf) - 1

    def _silent_since_s(self, attempt: Attempt) -> float:
        """Since when its replica has answered nothing; one that answers others only has much to do."""
        return max(attempt.sent_s, self._scatter.fleet.placement.answered_s(attempt.replica))


class Budget:
    """Each piece of work earns `ratio`; up to `burst` is saved. It starts full."""

    def __init__(self, ratio: float, burst: int) -> None:
        self._ratio, self._burst, self._saved = ratio, burst, float(burst)

    def earn(self) -> None:
        self._saved = min(self._burst, self._saved + self._ratio)

    def spend(self) -> bool:
        """Take one. False: there is none."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
