"""Settings of what the service tells of itself."""

from __future__ import annotations

from reranker.config.base import Group


class ObservabilityConfig(Group):
    """What the service tells of itself ([metrics](metrics.md))."""

    metrics: bool = True
    """Count what is done, for `GET /metrics` and Ray's exporter."""
