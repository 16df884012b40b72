"""Metrics: what there is (`catalog`), what one process counted (`book`), what all did (`ledger`), and that as text."""

from reranker.metrics.catalog import *  # noqa: F403 - the catalogue's names are this package's
from reranker.metrics.kinds import Counter, Gauge, Histogram, Label, Metric, NoRecorder, Recorder

__all__ = ["Counter", "Gauge", "Histogram", "Label", "Metric", "NoRecorder", "Recorder"]
