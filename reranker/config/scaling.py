"""Settings of how many replicas there are: `policy_kwargs` of the autoscaling policies, not `args`."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from reranker.config.base import Group


class ScalingConfig(Group):
    """When engine replicas are added and taken away."""

    target_queue_s: PositiveFloat = 1
    """Seconds of work that may be queued in each replica, at the speed they have shown. More of it: replicas are added
    at once, as many as bring it down to that. Below `admission.max_queue_s`, where lists are refused."""
    utilization: float = Field(default=0.7, gt=0, le=1)
    """Share of the replicas' speed that the arriving work may take; the rest is for what comes at once."""
    keep_s: PositiveFloat = 180
    """Seconds back: there are never fewer replicas than were needed at any moment since."""
    step_down: float = Field(default=0.25, gt=0, le=1)
    """Share of the replicas that may go at once, at least one; then a tenth of `keep_s` passes before more do."""
    stale_s: PositiveFloat = 15
    """What a replica said so long ago counts no longer. When fewer than half have said something, nothing changes."""
