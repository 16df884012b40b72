"""Send the shards of one list, and see to it that each is answered. Knows neither Ray nor HTTP.

Again elsewhere when a replica is lost, a second time when one lags far behind, not at all once time is up; and no task
is left behind by any of it.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from reranker.config import ScatterConfig
from reranker.errors import EngineFailedError, ReplicaLostError
from reranker.ranking.placement import Route, Survey
from reranker.record import Attempt, ShardRecord
from reranker.types import Shard, ShardScores

_LEAST_LAG_S = 0.05
"""A shard is not late before it took so long, however quick its siblings were: that much is noise."""


class Fleet(Protocol):
    """The replicas, seen as one."""

    @property
    def live_replicas(self) -> int:
        """How many can take a shard."""
        ...

    def survey(self, shards: int) -> Survey:
        """Show a list that may be cut into so many shards the replicas it may go to; none: there is none."""
        ...

    async def score(self, shard: Shard, weight: float, timeout_s: float, route: Route) -> ShardScores:
        """Score one shard on the replica that suits it best; cancelling it stops the work there.

        Args:
            shard: The pairs.
            weight: Share of the engine against other lists.
            timeout_s: Seconds until the answer is due, with what is scored by then.
            route: Where it may go; says afterwards where it went.

        Raises:
            EngineFailedError: The replica was lost; another can score the shard.
            ServiceError: Anything else.
        """
        ...


@dataclass(slots=True)
class Gathered:
    """What came back for one list."""

    answers: list[ShardScores | None]
    """By shard. None: not in time."""
    retries: int = 0
    hedges: int = 0


class Scatter:
    """Sends lists to a fleet, under budgets that all lists share."""

    def __init__(self, fleet: Fleet, config: ScatterConfig) -> None:
        """Start with full budgets.

        Args:
            fleet: Where to send shards.
            config: How often.
        """
        self.fleet, self.config = fleet, config
        self.retries = Budget(config.retry_ratio, config.retry_burst)
        self.hedges = Budget(config.hedge_ratio, math.ceil(100 * config.hedge_ratio))
        self._running: set[_Run] = set()

    async def gather(
        self,
        shards: Sequence[Shard],
        *,
        weight: float,
        deadline_s: float,
        allow_partial: bool,
        among: Sequence[str] = (),
        records: Sequence[ShardRecord] | None = None,
    ) -> Gathered:
        """Have every shard scored; or, once time is up, as many as there are if partial answers are wanted.

        Args:
            shards: Of one list, the heaviest first.
            weight: Share of the engines against other lists.
            deadline_s: On the running event loop's clock.
            allow_partial: When time is up, give what is there instead of failing.
            among: The replicas that the list was shown. None: any.
            records: Where to note what becomes of each shard. None: nowhere.

        Raises:
            TimeoutError: Time was up.
            ServiceError: A shard could not be scored anywhere; the others are cancelled.
        """
        records = [ShardRecord() for _ in shards] if records is None else records
        run = _Run(self, shards, records, among, weight, deadline_s, allow_partial=allow_partial)
        self._running.add(run)
        try:
            await run.until_answered()
        except TimeoutError:
            if not allow_partial:
                raise
        finally:
            self._running.discard(run)  # first: a second cancellation ends the wait below
            await run.stop()
        return Gathered([one.answer for one in run.shards], run.retries, run.hedges)

    def check_integrity(self, lists_in_flight: int) -> None:
        """Raise RuntimeError if anything is being sent while no list is in flight; a list may come in portions."""
        if self._running and not lists_in_flight:
            raise RuntimeError(f"{len(self._running)} portions being sent, but no list in flight. This is a bug.")


@dataclass(slots=True)
class _Shard:
    """A shard on its way, with every attempt that is under way for it."""

    shard: Shard
    route: Route
    record: ShardRecord
    sent: int = 0
    sent_s: float = 0.0
    attempts: dict[asyncio.Task[ShardScores], Attempt] = field(default_factory=dict)
    answer: ShardScores | None = None
    took_s: float = 0.0
    hedged: bool = False


class _Run:
    """One list."""

    def __init__(
        self,
        scatter: Scatter,
        shards: Sequence[Shard],
        records: Sequence[ShardRecord],
        among: Sequence[str],
        weight: float,
        deadline_s: float,
        *,
        allow_partial: bool,
    ) -> None:
        used: Counter[str] = Counter()
        pairs = zip(shards, records, strict=True)
        self.shards = [_Shard(shard, Route(used, among), record) for shard, record in pairs]
        self.retries = self.hedges = 0
        self._scatter, self._weight, self._deadline_s = scatter, weight, deadline_s
        self._allow_partial = allow_partial
        self._clock = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[ShardScores]] = set()
        # Where a partial answer is wanted, replicas must send theirs a little before time is up.
        left_s = deadline_s - self._clock()
        self._margin_s = min(scatter.config.reply_margin_s, left_s / 5) if allow_partial else 0.0

    async def until_answered(self) -> None:
        for one in self.shards:
            self._scatter.retries.earn()
            self._scatter.hedges.earn()
            self._send(one)
        while under_way := {task: one for one in self.shards if one.answer is None for task in one.attempts}:
            hedge_s, late = self._next_hedge()
            until_s = min(self._deadline_s, hedge_s)
            done, _ = await asyncio.wait(
                under_way, timeout=max(0.0, until_s - self._clock()), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                self._receive(under_way[task], task)
            if done:
                continue
            if self._clock() >= self._deadline_s:
                raise TimeoutError
            if late is not None:
                self._hedge(late)

    async def stop(self) -> None:
        """Cancel what is still under way, and see it end."""
        for task in self._tasks:
            task.cancel()
        for one in self.shards:
            one.record.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, one: _Shard, *, hedge: bool = False) -> None:
        left_s = self._deadline_s - self._clock() - self._margin_s
        if left_s <= 0:  # what cannot finish is not started
            if self._allow_partial:
                return  # in what is left the other shards' partial answers come in
            raise TimeoutError
        one.sent += 1
        one.sent_s = self._clock()
        route = replace(one.route, attempt=one.record.send(hedge=hedge))
        score = self._scatter.fleet.score(one.shard, self._weight, left_s, route)
        task: asyncio.Task[ShardScores] = asyncio.ensure_future(score)
        self._tasks.add(task)
        one.attempts[task] = route.attempt

    def _receive(self, one: _Shard, task: asyncio.Task[ShardScores]) -> None:
        if one.answer is not None:  # the other attempt's came in the same moment
            return
        attempt = one.attempts.pop(task)
        # Cancelled, and not by us: so Ray reports a shard whose replica has ended.
        error = ReplicaLostError() if task.cancelled() else task.exception()
        if error is None:
            one.answer = task.result()
            one.record.answered(attempt, one.answer.scores)
            one.took_s = self._clock() - one.sent_s
            if not (self._allow_partial or one.answer.scores.scored.all()):
                raise TimeoutError
            for loser, other in one.attempts.items():
                loser.cancel()
                other.end("dropped")
            one.attempts.clear()
            return
        attempt.end("lost" if isinstance(error, EngineFailedError) else "failed")
        if one.attempts:
            pass  # the other attempt is still under way, whatever befell this one
        elif not isinstance(error, EngineFailedError):
            raise error
        else:
            if one.sent >= self._scatter.config.max_attempts or not self._scatter.retries.spend():
                raise ReplicaLostError(one.sent) from None
            self.retries += 1
            self._send(one)

    def _next_hedge(self) -> tuple[float, _Shard | None]:
        """When a shard will have lagged too far behind its siblings, and which; never while most are not answered."""
        factor = self._scatter.config.hedge_after
        took_s = [one.took_s for one in self.shards if one.answer is not None]
        late = [one for one in self.shards if one.answer is None and not one.hedged]
        if factor is None or not late or len(took_s) < len(self.shards) / 2 or self._scatter.fleet.live_replicas < 2:
            return float("inf"), None
        allowed_s = max(_LEAST_LAG_S, factor * statistics.median(took_s))
        first = min(late, key=lambda one: one.sent_s)
        return first.sent_s + allowed_s, first

    def _hedge(self, late: _Shard) -> None:
        late.hedged = True  # or not: it is not asked again
        if self._scatter.hedges.spend():
            self.hedges += 1
            self._send(late, hedge=True)


class Budget:
    """Earned by `earn`, spent by `spend`; starts full."""

    def __init__(self, ratio: float, burst: int) -> None:
        """Start full.

        Args:
            ratio: What one piece of work earns.
            burst: How much can be saved.
        """
        self._ratio, self._burst = ratio, burst
        self._saved = float(burst)

    def earn(self) -> None:
        """Note a piece of work done once."""
        self._saved = min(self._burst, self._saved + self._ratio)

    def spend(self) -> bool:
        """Take one; False: there is none left."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
