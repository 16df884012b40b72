"""How many replicas: as many as keep the wait for an engine below a target. Pure: it is told the time and the figures.

Two needs, in replicas: so many that the arriving work takes only a part of their speed, and so many that what is queued
now is done within the target. The larger counts; more replicas come at once, fewer only when the last minutes would
have been served by fewer, and then step by step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from reranker.config import ScalingConfig

_RATE_S = 2.0
"""Seconds over which arriving work is counted, or from one report to the next where those are further apart. A longer
mean sees a burst later, and `keep_s` holds what a short one saw (measured: docs/scaling.md)."""

Reason: TypeAlias = Literal["queue", "load", "enough", "recent need", "less needed", "no figures", "no speed yet"]
"""Why there are to be so many: what the larger need was, or what holds the number where it is."""
REASONS: tuple[Reason, ...] = ("queue", "load", "enough", "recent need", "less needed", "no figures", "no speed yet")


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica says of itself. Work is in tokens, or whatever it does: all in the same."""

    at_s: float
    """When it said so, on the clock that decisions are made by."""
    pending: float
    """Work that waits in it or is being computed."""
    arrived: float
    """Work that it was given since it started."""
    work_per_s: float | None
    """Its speed while it works. None: it has not worked yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there are to be, and why."""

    replicas: int
    reason: Reason
    queue_s: float
    """Seconds of work in each running replica, as expected. 0 where nothing is known."""
    needed: float
    """Replicas that are needed at this moment."""


class ReplicaScaling:
    """Decides again and again; remembers what was needed lately."""

    def __init__(self, config: ScalingConfig) -> None:
        """Start without a past."""
        self._config = config
        self._began_s: float | None = None
        self._stepped_s = -math.inf
        self._needs: deque[tuple[float, float]] = deque()  # (time, need), falling: each is the largest since its time
        self._said: dict[str, deque[Report]] = {}  # of each replica the last `_RATE_S`, and one before

    def decide(self, reports: Mapping[str, Report | None], target: int, now_s: float) -> Decision:
        """Say how many replicas there are to be.

        Args:
            reports: What each running replica said last; None: nothing yet. Replicas that start are not in it.
            target: How many there are to be so far, those that start included.
            now_s: Rises from call to call.
        """
        self._began_s = now_s if self._began_s is None else self._began_s
        self._hear(reports)
        fresh = {
            name: report
            for name, report in reports.items()
            if report is not None and now_s - report.at_s <= self._config.stale_s
        }
        if not fresh or len(fresh) * 2 < len(reports):
            return Decision(target, "no figures", 0.0, float(target))
        # Who says nothing any more is taken to be like the others. Who has said nothing yet is new, and has nothing.
        silent = sum(name not in fresh and (said is not None or name in self._said) for name, said in reports.items())
        known = 1 + silent / len(fresh)
        pending = sum(report.pending for report in fresh.values()) * known
        speeds = [report.work_per_s for report in fresh.values() if report.work_per_s]
        if not speeds:
            if pending:
                return Decision(target, "no speed yet", 0.0, float(target))
            return self._settle(0.0, "enough", 0.0, target, now_s)
        speed = sum(speeds) / len(speeds)
        arriving = sum(_arriving(self._said[name]) for name in fresh)
        for_load = arriving * known / (speed * self._config.utilization)
        for_queue = pending / (speed * self._config.target_queue_s)
        if len(reports) < target:
            # Some are starting, and the queue is there because they are not there yet: it is no reason for yet more.
            for_queue = min(for_queue, target)
        reason: Reason = "queue" if for_queue > for_load else "load"
        return self._settle(max(for_load, for_queue), reason, pending / speed / len(reports), target, now_s)

    def _settle(self, needed: float, reason: Reason, queue_s: float, target: int, now_s: float) -> Decision:
        recent = _whole(self._remember(needed, now_s))
        if _whole(needed) > target:
            return Decision(_whole(needed), reason, queue_s, needed)
        if _whole(needed) == target:
            return Decision(target, "enough", queue_s, needed)
        keep_s = self._config.keep_s
        # Without a past of that length nobody knows what the last minutes needed.
        young = self._began_s is None or now_s - self._began_s < keep_s
        if young or recent >= target or now_s - self._stepped_s < keep_s / 10:
            return Decision(target, "recent need", queue_s, needed)
        self._stepped_s = now_s
        step = max(1, math.floor(target * self._config.step_down))
        return Decision(max(recent, target - step), "less needed", queue_s, needed)

    def _remember(self, needed: float, now_s: float) -> float:
        """Add a need, and give the largest of the time that counts."""
        while self._needs and self._needs[-1][1] <= needed:
            self._needs.pop()
        self._needs.append((now_s, needed))
        while self._needs[0][0] < now_s - self._config.keep_s:
            self._needs.popleft()
        return self._needs[0][1]

    def _hear(self, reports: Mapping[str, Report | None]) -> None:
        """Note what is new of those that are there."""
        self._said = {name: said for name, said in self._said.items() if name in reports}
        for name, report in reports.items():
            if report is None:
                continue
            said = self._said.setdefault(name, deque([report]))
            if report.arrived < said[-1].arrived:  # it began anew
                said.clear()
            if not said or report.at_s > said[-1].at_s:
                said.append(report)
            while len(said) > 2 and said[1].at_s <= report.at_s - _RATE_S:
                said.popleft()


def _arriving(said: Sequence[Report]) -> float:
    """Work that arrives at a replica per second. Of the first word nobody knows how long it took to arrive: 0."""
    first, last = said[0], said[-1]
    return (last.arrived - first.arrived) / (last.at_s - first.at_s) if last.at_s > first.at_s else 0.0


def _whole(needed: float) -> int:
    """Replicas for a need; what is above by less than a hundredth is no reason for one more."""
    return math.ceil(needed - 0.01)
