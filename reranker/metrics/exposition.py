"""Sums as Prometheus text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from reranker.metrics.book import cell, parts
from reranker.metrics.kinds import Counter, Histogram, Metric, label_sets, starts_at_zero

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(metrics: Sequence[Metric], totals: Mapping[str, float]) -> bytes:
    """Write them.

    Args:
        metrics: Which, in this order.
        totals: By cell; see `reranker.metrics.ledger.Ledger.totals`. What is not there is 0.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(metrics, totals))
    return generate_latest(registry)


def bounds(histogram: Histogram) -> list[str]:
    """The bounds of a histogram's buckets, as the label `le` has them."""
    return [*map(floatToGoString, histogram.bounds), "+Inf"]


class _Collector:
    def __init__(self, metrics: Sequence[Metric], totals: Mapping[str, float]) -> None:
        self._metrics, self._totals = metrics, totals

    def collect(self) -> Iterable[Family]:
        return map(self._family, self._metrics)

    def describe(self) -> Iterator[Family]:
        """Nothing is checked for duplicates: the registry holds one collector."""
        return iter(())

    def _family(self, metric: Metric) -> Family:
        names = [label.name for label in metric.labels]
        if isinstance(metric, Histogram):
            histogram = HistogramMetricFamily(metric.name, metric.description, labels=names)
            for labels in label_sets(metric):
                *counts, total = [self._totals.get(cell(metric, labels, part), 0.0) for part in parts(metric)]
                buckets = zip(bounds(metric), itertools.accumulate(counts), strict=True)
                histogram.add_metric(labels, list(buckets), total)
            return histogram
        made: CounterMetricFamily | GaugeMetricFamily
        if isinstance(metric, Counter):
            made = CounterMetricFamily(metric.name, metric.description, labels=names)
        else:
            made = GaugeMetricFamily(metric.name, metric.description, labels=names)
        for labels in label_sets(metric):
            name = cell(metric, labels)
            if name in self._totals or starts_at_zero(metric):
                made.add_metric(labels, self._totals.get(name, 0.0))
        return made
