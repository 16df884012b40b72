"""Settings of what the service tells of itself."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from reranker.config.base import Group


class ObservabilityConfig(Group):
    """What the service tells of itself ([metrics](metrics.md), [logs](observability.md#logs))."""

    metrics: bool = True
    """Count what is done, for `GET /metrics` and `metrics_port`."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """All metrics of a node, its engines' as well, are also answered on this port of it, without a key: where
    Prometheus scrapes each pod. The replicas of a node share the port. None: none is opened."""
    slow_request_s: PositiveFloat | None = 10
    """A request that takes so many seconds is logged with its stages and shards, and so is a shard that takes as long
    in its replica. None: none is."""
