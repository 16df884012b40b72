"""A recorder that keeps what it is told."""

from __future__ import annotations

from collections import defaultdict

from reranker.metrics import Counter, Gauge, Histogram, Metric


class KeptMetrics:
    """See `reranker.metrics.Recorder`."""

    def __init__(self) -> None:
        self.counts: defaultdict[Counter, float] = defaultdict(float)
        """Over all labels."""
        self.labelled: defaultdict[Metric, dict[tuple[str, ...], float]] = defaultdict(dict)
        """Of counters: the number by labels' values; of histograms: how many values."""
        self.values: dict[Gauge, float] = {}
        self.observed: dict[Histogram, list[float]] = {}

    def count(self, counter: Counter, amount: float, *labels: str) -> None:
        self.counts[counter] += amount
        self._add(counter, labels, amount)

    def set(self, gauge: Gauge, value: float, *labels: str) -> None:
        self.values[gauge] = value

    def observe(self, histogram: Histogram, value: float, *labels: str) -> None:
        self.observed.setdefault(histogram, []).append(value)
        self._add(histogram, labels, 1)

    def _add(self, metric: Metric, labels: tuple[str, ...], amount: float) -> None:
        assert len(labels) == len(metric.labels)
        self.labelled[metric][labels] = self.labelled[metric].get(labels, 0) + amount
