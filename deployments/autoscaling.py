"""How many replicas, of engines or of the ingress: a Ray Serve autoscaling policy around `deployments.scaling`.

A Serve configuration names it:

    autoscaling_config:
      policy:
        policy_function: deployments.autoscaling:QueueTime
        policy_kwargs: {target_queue_s: 1}

It runs in Serve's controller, ten times a second; `upscale_delay_s` and `downscale_delay_s` must be 0, as it
waits by itself. After a deployment it starts without a past.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.config import AutoscalingContext
from ray.util import metrics as ray_metrics

from deployments.scaling import REASONS, Decision, ReplicaScaling, Report
from reranker.config import ScalingConfig

logger = logging.getLogger("ray.serve")
"""The controller's; ours is not set up there."""


NEEDED, WANTED, QUEUE, REASON = (
    f"reranker_scaling_{one}" for one in ("needed_replicas", "wanted_replicas", "queue_seconds", "reason")
)
GAUGES = {
    NEEDED: ("Replicas that the work of this moment needs.", ("deployment",)),
    WANTED: ("Replicas there are to be, before bounds.", ("deployment",)),
    QUEUE: ("Expected wait for an engine.", ("deployment",)),
    REASON: (f"1 for the last decision's reason, 0 for others: {', '.join(REASONS)}.", ("deployment", "reason")),
}
"""Description and labels. Ray's exporter shows them: they are set in Serve's controller, which has no files of ours."""


class QueueTime:
    """Keeps the expected wait for an engine below `target_queue_s`."""

    def __init__(self, **settings: Any) -> None:  # what YAML gives; checked by ScalingConfig
        """Start without a past.

        Args:
            settings: See `ScalingConfig`.

        Raises:
            pydantic.ValidationError: An unknown key or a wrong value.
        """
        self._scaling = ReplicaScaling(ScalingConfig.model_validate(settings))
        self._gauges: dict[str, Any] = {}  # Ray's are untyped here; made when first used, in the controller

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Decide. Called by Serve, which applies the bounds."""
        if not context.running_replicas and not context.target_num_replicas:
            # Scaled to zero: nobody is there to say anything, but a list that came made a call wait (fleet.py).
            return (1 if context.total_queued_requests else 0), {}
        reports = {one.unique_id: _report(one, context.raw_metrics or {}) for one in context.running_replicas}
        decision = self._scaling.decide(reports, context.target_num_replicas, context.current_time)
        if decision.replicas != context.target_num_replicas:
            logger.info(
                "%s: %d replicas instead of %d (%s; %.2f s queued, %.2f needed)",
                context.deployment_name,
                decision.replicas,
                context.target_num_replicas,
                decision.reason,
                decision.queue_s,
                decision.needed,
            )
        self._tell(decision, context.deployment_name)
        return decision.replicas, {}

    def _tell(self, decision: Decision, deployment: str) -> None:
        if not self._gauges:
            self._gauges = {name: ray_metrics.Gauge(name, *about) for name, about in GAUGES.items()}
        for name, value in ((NEEDED, decision.needed), (WANTED, decision.replicas), (QUEUE, decision.queue_s)):
            self._gauges[name].set(value, tags={"deployment": deployment})
        for reason in REASONS:
            tags = {"deployment": deployment, "reason": reason}
            self._gauges[REASON].set(int(reason == decision.reason), tags=tags)


def _report(replica: Any, raw: Mapping[str, Mapping[Any, Sequence[Any]]]) -> Report | None:
    """The last that a replica said; Ray keeps a series of (timestamp, value) for each figure and replica."""
    latest = {}
    for name in ("pending_work", "arrived_work", "work_per_s"):
        series = raw.get(name, {}).get(replica)
        if not series:
            return None
        latest[name] = series[-1]
    return Report(
        at_s=latest["pending_work"].timestamp,
        pending=latest["pending_work"].value,
        arrived=latest["arrived_work"].value,
        work_per_s=latest["work_per_s"].value or None,
    )
