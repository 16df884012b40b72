"""Settings of what the service tells of itself."""

from __future__ import annotations

from pydantic import PositiveFloat

from reranker.config.base import Group


class ObservabilityConfig(Group):
    """What the service tells of itself ([metrics](metrics.md), [logs](observability.md#logs))."""

    metrics: bool = True
    """Count what is done, for `GET /metrics` and Ray's exporter."""
    slow_request_s: PositiveFloat | None = 10
    """A request that takes so many seconds is logged with its stages and shards, and so is a shard that takes as long
    in its replica. None: none is."""
