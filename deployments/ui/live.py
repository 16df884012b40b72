"""What a service is doing, from `GET /metrics`: rates and percentiles of the last seconds, queue. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

KEPT = 90  # samples of the past that are drawn
_WINDOW_S = 20.0
"""Rates and percentiles are of this time. In a shorter one a few slow requests would make the figures jump."""


class Sample(NamedTuple):
    """The service's counters and gauges at a moment."""

    at_s: float
    requests: float | None = None
    """So far, however they ended. None: the service does not count."""
    refused: float | None = None
    documents: float | None = None
    buckets: Mapping[float, float] = {}
    """By a number of seconds, how many of the answered requests so far took no longer."""
    replicas: float | None = None
    in_flight: float | None = None
    queued_tokens: float | None = None


def metrics_sample(text: str, at_s: float) -> Sample:
    """Read a page of metrics."""
    series: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            series[one.name].append((one.labels, one.value))

    def total(name: str, unknown: float | None = None) -> float | None:
        return sum(value for _, value in series[name]) if name in series else unknown

    buckets: dict[float, float] = defaultdict(float)
    for labels, value in series["reranker_request_duration_seconds_bucket"]:
        if labels.get("result") == "answered":
            buckets[float(labels["le"])] += value
    return Sample(
        at_s,
        total("reranker_requests_total", 0.0),
        total("reranker_admission_refusals_total", 0.0),
        total("reranker_documents_total", 0.0),
        buckets,
        max((value for _, value in series["reranker_live_replicas"]), default=None),  # each sees all
        total("reranker_requests_in_flight"),
        total("reranker_engine_queued_tokens"),
    )


def load_sample(load: Mapping[str, Any], at_s: float) -> Sample:  # Any: JSON
    """Read /v1/load, for a service that counts nothing."""
    replicas = load.get("replicas", ())
    queued = sum(one.get("pending_tokens", 0) for one in replicas)
    return Sample(at_s, replicas=len(replicas), in_flight=load.get("lists"), queued_tokens=queued)


class Figures(NamedTuple):
    """Rates and percentiles. None: not known."""

    requests_per_s: float | None = None
    documents_per_s: float | None = None
    refused_per_s: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None


def figures(samples: Sequence[Sample]) -> Figures:
    """Give the figures of the last seconds, of samples in the order of time."""
    if len(samples) < 2:
        return Figures()
    last = samples[-1]
    first = next((one for one in samples[:-1] if last.at_s - one.at_s <= _WINDOW_S), samples[-2])
    seconds = last.at_s - first.at_s

    def rate(counter: str) -> float | None:
        now, before = getattr(last, counter), getattr(first, counter)
        # A smaller number than before is another service's at the same address: nothing is known of the time between.
        return None if now is None or before is None or now < before or seconds <= 0 else (now - before) / seconds

    between = {bound: count - first.buckets.get(bound, 0) for bound, count in last.buckets.items()}
    percentiles = (quantile_ms(between, share) for share in (0.5, 0.95))
    return Figures(rate("requests"), rate("documents"), rate("refused"), *percentiles)


def quantile_ms(buckets: Mapping[float, float], share: float) -> float | None:
    """Estimate a quantile as Prometheus does: evenly spread within a bucket; of the last one, its lower bound.

    `buckets` says of each bound in seconds, the last one infinite, how many took no longer.
    """
    wanted = share * buckets.get(math.inf, 0)
    lower, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted > 0:
            within = 0 if bound == math.inf else (bound - lower) * (wanted - below) / max(count - below, 1e-9)
            return (lower + within) * 1e3
        lower, below = bound, count
    return None
