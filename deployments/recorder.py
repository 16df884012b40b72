"""Recorder over ray.serve.metrics: Ray's exporter on every node then counts every replica."""

from __future__ import annotations

from ray.serve import metrics as ray_metrics

from reranker.metrics import COUNTERS, GAUGES, HISTOGRAMS, Counter, Gauge, Histogram


class RayRecorder:
    """See `reranker.metrics.Recorder`. To be made in a replica: Ray adds the replica's labels."""

    def __init__(self) -> None:
        """Register every metric."""
        self._counters = {one: ray_metrics.Counter(one.name, description=one.description) for one in COUNTERS}
        self._gauges = {one: ray_metrics.Gauge(one.name, description=one.description) for one in GAUGES}
        self._histograms = {
            one: ray_metrics.Histogram(one.name, description=one.description, boundaries=list(one.bounds))
            for one in HISTOGRAMS
        }

    def count(self, counter: Counter, amount: int) -> None:
        """Add to a counter; nothing for nothing, as Ray refuses to add 0."""
        if amount:
            self._counters[counter].inc(amount)

    def set(self, gauge: Gauge, value: float) -> None:
        """Say what a number is now."""
        self._gauges[gauge].set(value)

    def observe(self, histogram: Histogram, value: float) -> None:
        """Count a value."""
        self._histograms[histogram].observe(value)
