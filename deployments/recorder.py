"""The ledger's sums through Ray's metrics: what Ray's exporter, and a PodMonitor with it, shows of ours.

One process records for all. Were each to record for itself, what it had counted since Ray last collected (ten seconds)
would be lost with it, and Ray would keep the rest under a name of its own for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ray.util import metrics as ray_metrics

from reranker.metrics import Counter, Gauge, Histogram, Metric
from reranker.metrics.book import SUM, Book, cell, parts
from reranker.metrics.exposition import bounds
from reranker.metrics.kinds import label_sets, starts_at_zero


class RayExport:
    """Tells Ray what sums have become since it was told last."""

    def __init__(self, metrics: Sequence[Metric], told: Book) -> None:
        """Register every metric.

        A histogram becomes three counters, `_bucket`, `_count` and `_sum`, to whose names Ray adds `_total`. Ray's own
        histograms lose the sum, and cost Ray two steps of Python for every single value.

        Args:
            metrics: All there are.
            told: What Ray was told already, by a process that may have ended; goes on from there.
        """
        self._metrics, self._told = metrics, told
        self._series = {
            metric: [(labels, [cell(metric, labels, part) for part in parts(metric)]) for labels in label_sets(metric)]
            for metric in metrics
        }
        """By metric: the labels of each series, and the names of its cells."""
        self._known = dict(told.page().cells)
        self._ray: dict[str, ray_metrics.Metric] = {}
        for metric in metrics:
            labels = tuple(label.name for label in metric.labels)
            if isinstance(metric, Gauge):
                self._ray[metric.name] = ray_metrics.Gauge(metric.name, metric.description, labels)
            elif isinstance(metric, Counter):
                self._ray[metric.name] = ray_metrics.Counter(metric.name, metric.description, labels)
            else:
                for ending, more in (("_bucket", ("le",)), ("_count", ()), ("_sum", ())):
                    name = metric.name + ending
                    self._ray[name] = ray_metrics.Counter(name, metric.description, labels + more)
            if not isinstance(metric, Gauge) and starts_at_zero(metric):
                self._add(metric, {})

    def tell(self, totals: Mapping[str, float]) -> None:
        """Tell Ray these sums; see `reranker.metrics.ledger.Ledger.totals`.

        A sum that is lower than it was, as the ledger has not heard of all yet since it began anew, is waited for.
        """
        for metric in self._metrics:
            if isinstance(metric, Gauge):
                for labels, [name] in self._series[metric]:
                    self._ray[metric.name]._record(totals.get(name, 0.0), _tags(metric, labels))
            else:
                self._add(metric, totals)

    def _add(self, metric: Counter | Histogram, totals: Mapping[str, float]) -> None:
        for labels, names in self._series[metric]:
            more = {name: max(0.0, totals.get(name, 0.0) - self._known.get(name, 0.0)) for name in names}
            if not any(more.values()) and (totals or not starts_at_zero(metric)):
                continue
            self._record(metric, labels, list(more.values()))
            for name, amount in more.items():
                if amount:
                    self._known[name] = self._known.get(name, 0.0) + amount
                    self._told.raise_to(name, self._known[name])

    def _record(self, metric: Counter | Histogram, labels: Sequence[str], more: Sequence[float]) -> None:
        """Add to Ray's counters. Through `_record`, as `inc` refuses to show a 0."""
        tags = _tags(metric, labels)
        if isinstance(metric, Counter):
            self._ray[metric.name]._record(more[0], tags)
            return
        *counts, total = more
        for bound, count in zip(bounds(metric), itertools.accumulate(counts), strict=True):
            self._ray[metric.name + "_bucket"]._record(count, tags | {"le": bound})
        self._ray[metric.name + "_count"]._record(sum(counts), tags)
        self._ray[f"{metric.name}_{SUM}"]._record(total, tags)


def _tags(metric: Metric, labels: Sequence[str]) -> dict[str, str]:
    return {label.name: value for label, value in zip(metric.labels, labels, strict=True)}
