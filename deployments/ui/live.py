"""What a service is doing, from `GET /metrics`: figures of the last seconds and of the last half hour. Pure."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from deployments import ENGINE_DEPLOYMENT

_Amounts = dict[str, dict[str, float]]  # of what, and whose: a model's, a replica's, or ALL
ALL = ""

HISTORY_S = 1_800.0
_STEP_S = 15.0
"""A point of the history. With others the half hour would be no finer on a screen."""
_WINDOW_S = 20.0
"""The figures of now are of this time. In a shorter one a few slow requests would make them jump."""
_UNSEEN_S = 60.0
"""A longer step is a time in which nobody looked: counters tell what happened then, gauges do not."""
_SOONEST_S = 1.0
_TOTALS = {
    "requests": "reranker_requests_total",
    "refused": "reranker_admission_refusals_total",
    "documents": "reranker_documents_total",
    "pairs": "reranker_engine_pairs_total",
    "hits": "reranker_cache_hits_total",
    "misses": "reranker_cache_misses_total",
}


class Sample(NamedTuple):
    """The service's counters and gauges at a moment."""

    at_s: float
    counts: Mapping[str, Mapping[str, float]] = {}
    """So far. Empty: the service does not count."""
    buckets: Mapping[str, Mapping[float, float]] = {}
    """Of each model and by a number of seconds: how many of the answered requests so far took no longer."""
    gauges: Mapping[str, Mapping[str, float]] = {}


def metrics_sample(text: str, at_s: float) -> Sample:
    """Read a page of metrics."""
    series: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            series[one.name].append((one.labels, one.value))

    counts: _Amounts = {what: {ALL: sum(value for _, value in series[name])} for what, name in _TOTALS.items()}
    gauges: _Amounts = defaultdict(dict)
    if flying := series["reranker_requests_in_flight"]:
        gauges["in_flight"][ALL] = sum(value for _, value in flying)
    for labels, value in series["reranker_model_live_replicas"]:  # each ingress knows all engines
        gauges["replicas"][labels["model"]] = max(value, gauges["replicas"].get(labels["model"], 0.0))
    if gauges["replicas"]:
        gauges["replicas"][ALL] = sum(gauges["replicas"].values())
    engines = {labels["replica"]: _engine(labels) for labels, _ in series["reranker_engine_deployment"]}
    for labels, value in series["reranker_engine_queued_tokens"]:
        if engine := engines.get(labels["replica"]):
            gauges["queue"][engine] = value
    if gauges["queue"]:
        gauges["queue"][ALL] = sum(gauges["queue"].values())
    for labels, value in series[_TOTALS["pairs"]]:
        if engine := engines.get(labels["replica"]):  # one that lives
            counts["pairs"][engine] = value
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for labels, value in series["reranker_model_duration_seconds_bucket"]:
        bound = float(labels["le"])
        if bound == math.inf:
            counts["requests"][labels["model"]] = counts["requests"].get(labels["model"], 0.0) + value
        if labels["result"] == "answered":
            buckets[labels["model"]][bound] += value
            buckets[ALL][bound] += value
    return Sample(at_s, counts, buckets, gauges)


def _engine(labels: Mapping[str, str]) -> str:
    """Name a replica: those of the default model by its own name, others' with their model's."""
    model = labels["deployment"].removeprefix(ENGINE_DEPLOYMENT).removeprefix("-")
    return f"{model} {labels['replica']}".strip()


def load_sample(load: Mapping[str, Any], at_s: float) -> Sample:  # Any: JSON
    """Read /v1/load, for a service that counts nothing, and for visitors who may not read what it counts."""
    replicas = load.get("replicas", ())
    queue = {f"{one.get('model', '')} {one.get('name', '')}".strip(): one.get("pending_tokens", 0) for one in replicas}
    gauges: _Amounts = {"replicas": {ALL: len(replicas)}, "queue": queue | {ALL: sum(queue.values())}}
    if "lists" in load:
        gauges["in_flight"] = {ALL: load["lists"]}
    return Sample(at_s, gauges=gauges)


class Step(NamedTuple):
    """What happened between two moments: rates, shares, percentiles, and the highest that gauges were."""

    from_s: float
    to_s: float
    figures: Mapping[str, Mapping[str, float]]
    """What is not known is not there."""


def step(samples: Sequence[Sample]) -> Step:
    """Give what happened between the first and the last of two samples or more."""
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s
    figures: _Amounts = defaultdict(dict)
    for what, counts in last.counts.items():
        for whose, now in counts.items():
            grown = now - first.counts.get(what, {}).get(whose, 0.0)
            if grown >= 0:  # else they are another service's at the same address
                figures[what][whose] = grown / seconds
    hits, misses = (figures.pop(one, {}).get(ALL, 0.0) for one in ("hits", "misses"))
    if hits + misses:
        figures["cached"][ALL] = 100 * hits / (hits + misses)
    for whose, buckets in last.buckets.items():
        before = first.buckets.get(whose, {})
        between = {bound: count - before.get(bound, 0) for bound, count in buckets.items()}
        for what, share in (("p50", 0.5), ("p99", 0.99)):
            if (ms := quantile_ms(between, share)) is not None:
                figures[what][whose] = ms
    for one in samples[1:] if seconds <= _UNSEEN_S else ():
        for what, gauges in one.gauges.items():
            for whose, value in gauges.items():
                figures[what][whose] = max(value, figures[what].get(whose, 0.0))
    return Step(first.at_s, last.at_s, figures)


class History:
    """What was seen of a service in the last half hour, by all who look. Many take no more memory than one."""

    def __init__(self) -> None:
        self._recent: deque[Sample] = deque()
        self._open: list[Sample] = []
        self._closed: deque[Step] = deque(maxlen=int(HISTORY_S / _STEP_S) + 1)

    def add(self, sample: Sample) -> None:
        """Take in what somebody has just seen."""
        if self._recent and sample.at_s - self._recent[-1].at_s < _SOONEST_S:
            return  # another has just looked
        self._recent.append(sample)
        while len(self._recent) > 2 and sample.at_s - self._recent[0].at_s > _WINDOW_S:
            self._recent.popleft()
        self._open.append(sample)
        if sample.at_s - self._open[0].at_s >= _STEP_S:
            self._closed.append(step(self._open))
            self._open = [sample]
        while self._closed and self._closed[0].to_s < sample.at_s - HISTORY_S:
            self._closed.popleft()

    @property
    def last(self) -> Sample:
        return self._recent[-1]

    @property
    def now(self) -> Mapping[str, Mapping[str, float]]:
        """The figures of the last seconds; the gauges' as they are."""
        figures = step([*self._recent]).figures if len(self._recent) > 1 else {}
        return {**figures, **self.last.gauges}

    @property
    def steps(self) -> list[Step]:
        """In the order of time; the last one is still going on."""
        return [*self._closed, *([step(self._open)] if len(self._open) > 1 else ())]


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
