"""How many replicas, of engines or of the ingress: a Ray Serve autoscaling policy.

A Serve configuration names it:

    autoscaling_config:
      policy:
        policy_function: deployments.autoscaling:QueueTime
        policy_kwargs: {target_queue_s: 1}

Two needs, in replicas: enough that the arriving work takes only a part of their speed, and enough that the queued work
is done within the target. The larger counts. More replicas come at once; fewer come only when the last minutes would
have been served by fewer, and then step by step.

Serve pickles this module by value and runs it in its controller, ten times a second. `upscale_delay_s` and
`downscale_delay_s` must be 0, as the policy waits by itself. After a deployment it starts without a past.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ray.serve.config import AutoscalingContext
from ray.util import metrics as ray_metrics

from reranker.config import ScalingConfig

logger = logging.getLogger("ray.serve")  # the controller's; ours is not set up there
# Seconds over which arriving work is counted, or from one report to the next where those are further apart. A longer
# mean sees a burst later, and `keep_s` holds what a short one saw (measured: docs/scaling.md).
_RATE_S = 2.0

_SAID_AGAIN_S = 60.0
_EXCESS = 0.01  # of a replica: so little more than a whole number is no reason for one more

Reason: TypeAlias = Literal["queue", "load", "enough", "recent need", "less needed", "no figures", "no speed yet"]
"""Of a decision: the larger need, or what holds the number where it is."""
REASONS: tuple[Reason, ...] = get_args(Reason)

_REASONS_HELP = f"1 for the last decision's reason, 0 for others: {', '.join(REASONS)}."
GAUGES = {
    "reranker_scaling_needed_replicas": ("Replicas that the work of this moment needs.", ("deployment",)),
    "reranker_scaling_wanted_replicas": ("Replicas there are to be, before bounds.", ("deployment",)),
    "reranker_scaling_queue_seconds": ("Expected wait for an engine.", ("deployment",)),
    "reranker_scaling_reason": (_REASONS_HELP, ("deployment", "reason")),
}
"""Description and labels. Set in Serve's controller, which has no files of ours, so Ray's exporter shows them."""


@dataclass(frozen=True, slots=True)
class Report:
    """A replica's figures. Work is in tokens, or in any other unit that all replicas share."""

    at_s: float  # on the clock that decisions are made by
    pending: float
    arrived: float  # since the replica started
    work_per_s: float | None  # while it works; None: it has not worked yet


@dataclass(frozen=True, slots=True)
class Decision:
    """A number of replicas, and why."""

    replicas: int
    reason: Reason
    queue_s: float  # expected seconds of work in each running replica; 0 where nothing is known
    needed: float  # replicas that the work of this moment needs


class ReplicaScaling:
    """Decides again and again; remembers the needs of the last `keep_s`. Pure: it is told the time and the figures."""

    def __init__(self, config: ScalingConfig) -> None:
        self._config = config
        self._began_s = math.inf
        self._stepped_s = -math.inf
        self._needs: deque[tuple[float, float]] = deque()  # (time, need), falling: each is the largest since its time
        self._history: dict[str, deque[Report]] = {}  # of each replica the last `_RATE_S`, and one before

    def decide(self, reports: Mapping[str, Report | None], target: int, now_s: float) -> Decision:
        """Decide how many replicas there are to be at `now_s`, which rises from call to call.

        A replica that has reported nothing yet is None. `target` is the number so far, with those that start.
        """
        self._began_s = min(self._began_s, now_s)
        self._record(reports)
        fresh = {name: one for name, one in reports.items() if one and now_s - one.at_s <= self._config.stale_s}
        if not fresh or len(fresh) * 2 < len(reports):
            return Decision(target, "no figures", 0.0, float(target))
        # A replica that no longer reports counts like the mean of the others. One that has never reported is new and
        # has nothing to do.
        silent = sum(name not in fresh and name in self._history for name in reports)
        scale = 1 + silent / len(fresh)
        pending = sum(report.pending for report in fresh.values()) * scale
        speeds = [report.work_per_s for report in fresh.values() if report.work_per_s]
        if not speeds and pending:
            return Decision(target, "no speed yet", 0.0, float(target))
        if not speeds:
            return self._settle(0.0, "enough", 0.0, target, now_s)
        speed = sum(speeds) / len(speeds)
        arriving = sum(_arriving(self._history[name]) for name in fresh)
        for_load = arriving * scale / (speed * self._config.utilization)
        for_queue = pending / (speed * self._config.target_queue_s)
        if len(reports) < target:  # the queue is there because some are still starting: no reason for yet more
            for_queue = min(for_queue, target)
        reason: Reason = "queue" if for_queue > for_load else "load"
        return self._settle(max(for_load, for_queue), reason, pending / speed / len(reports), target, now_s)

    def _settle(self, needed: float, reason: Reason, queue_s: float, target: int, now_s: float) -> Decision:
        recent, now = (math.ceil(need - _EXCESS) for need in (self._remember(needed, now_s), needed))
        if now > target:
            return Decision(now, reason, queue_s, needed)
        if now == target:
            return Decision(target, "enough", queue_s, needed)
        keep_s = self._config.keep_s
        young = now_s - self._began_s < keep_s  # the need of the last `keep_s` is known only after so long
        if young or recent >= target or now_s - self._stepped_s < keep_s / 10:
            return Decision(target, "recent need", queue_s, needed)
        self._stepped_s = now_s
        step = max(1, math.floor(target * self._config.step_down))
        return Decision(max(recent, target - step), "less needed", queue_s, needed)

    def _remember(self, needed: float, now_s: float) -> float:
        """Add a need; give the largest of the last `keep_s`."""
        while self._needs and self._needs[-1][1] <= needed:
            self._needs.pop()
        self._needs.append((now_s, needed))
        while self._needs[0][0] < now_s - self._config.keep_s:
            self._needs.popleft()
        return self._needs[0][1]

    def _record(self, reports: Mapping[str, Report | None]) -> None:
        """Add new reports to the history, and forget replicas that have ended."""
        self._history = {name: history for name, history in self._history.items() if name in reports}
        for name, report in reports.items():
            if report is None:
                continue
            history = self._history.setdefault(name, deque([report]))
            if report.arrived < history[-1].arrived:  # the replica has started again
                history.clear()
            if not history or report.at_s > history[-1].at_s:
                history.append(report)
            while len(history) > 2 and history[1].at_s <= report.at_s - _RATE_S:
                history.popleft()


def _arriving(history: Sequence[Report]) -> float:
    """Work that arrives at a replica per second. 0 with one report: its work arrived in an unknown time."""
    first, last = history[0], history[-1]
    return (last.arrived - first.arrived) / (last.at_s - first.at_s) if last.at_s > first.at_s else 0.0


class QueueTime:
    """Keeps the expected wait for an engine below `target_queue_s`."""

    def __init__(self, **settings: Any) -> None:  # Any: from YAML
        """The settings are those of `ScalingConfig`; pydantic.ValidationError for others."""
        self._scaling = ReplicaScaling(ScalingConfig.model_validate(settings))
        self._gauges: list[Any] = []  # Ray's are untyped here; made when first needed, in the controller
        self._said_s = -math.inf

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Decide. Called by Serve, which applies the bounds.

        Raises nothing: Serve's controller would reconcile no application any more, not even one that is to repair it.
        """
        try:
            return self._decide(context)
        except Exception:
            if time.monotonic() - self._said_s >= _SAID_AGAIN_S:
                self._said_s = time.monotonic()
                logger.exception("scaling has failed, and leaves %s as it is", context.deployment_name)
            return context.target_num_replicas, {}

    def _decide(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        target = context.target_num_replicas
        if not context.running_replicas and not target:
            # Scaled to zero: no replica reports, but the list that came has made a call wait (fleet.py).
            return (1 if context.total_queued_requests else 0), {}
        reports = {one.unique_id: _report(one, context.raw_metrics or {}) for one in context.running_replicas}
        decision, deployment = self._scaling.decide(reports, target, context.current_time), context.deployment_name
        if decision.replicas != target:
            message = "%s: %d replicas instead of %d (%s; %.2f s queued, %.2f needed)"
            figures = (decision.reason, decision.queue_s, decision.needed)
            logger.info(message, deployment, decision.replicas, target, *figures)
        self._gauges = self._gauges or [ray_metrics.Gauge(name, *about) for name, about in GAUGES.items()]
        *figures_of, reason_of = self._gauges
        for gauge, value in zip(figures_of, (decision.needed, decision.replicas, decision.queue_s), strict=True):
            gauge.set(value, tags={"deployment": deployment})
        for reason in REASONS:
            reason_of.set(int(reason == decision.reason), tags={"deployment": deployment, "reason": reason})
        return decision.replicas, {}


def _report(replica: Any, raw: Mapping[str, Mapping[Any, Sequence[Any]]]) -> Report | None:
    """A replica's last report. Ray (untyped here) has a series of (timestamp, value) for each figure and replica."""
    series = [raw.get(name, {}).get(replica) for name in ("pending_work", "arrived_work", "work_per_s")]
    if not all(series):
        return None
    pending, arrived, speed = (points[-1] for points in series if points)
    return Report(pending.timestamp, pending.value, arrived.value, speed.value or None)
