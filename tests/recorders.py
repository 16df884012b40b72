"""A recorder that keeps what it is told."""

from __future__ import annotations

from collections import Counter as Count

from reranker.metrics import Counter, Gauge, Histogram


class KeptMetrics:
    """See `reranker.metrics.Recorder`."""

    def __init__(self) -> None:
        self.counts: Count[Counter] = Count()
        self.values: dict[Gauge, float] = {}
        self.observed: dict[Histogram, list[float]] = {}

    def count(self, counter: Counter, amount: int) -> None:
        self.counts[counter] += amount

    def set(self, gauge: Gauge, value: float) -> None:
        self.values[gauge] = value

    def observe(self, histogram: Histogram, value: float) -> None:
        self.observed.setdefault(histogram, []).append(value)
