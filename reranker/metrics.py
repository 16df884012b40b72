"""Every metric, declared once, and the seam to what records them. Pure: modules return facts, the ingress records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only rises. Ray exports it as `ray_<name>`, with its own labels for deployment and replica."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is what it is now."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    """Besides Ray's own, which only replicas have."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a number was up to each of some bounds."""

    name: str
    description: str
    bounds: tuple[float, ...]


DOCUMENTS = Counter("reranker_documents_total", "Documents ranked.")
TRUNCATED_DOCUMENTS = Counter("reranker_truncated_documents_total", "Documents that lost tokens to a limit.")
WINDOWED_DOCUMENTS = Counter("reranker_windowed_documents_total", "Documents scored in more than one window.")
EXCLUDED_DOCUMENTS = Counter("reranker_excluded_documents_total", "Documents a rule or threshold left out.")
UNSCORED_DOCUMENTS = Counter("reranker_unscored_documents_total", "Documents that time did not suffice for.")
REFUSED_LISTS = Counter("reranker_refused_lists_total", "Lists turned away (429) because of those here already.")
RETRIED_SHARDS = Counter("reranker_retried_shards_total", "Shards sent again because a replica was lost.")
HEDGED_SHARDS = Counter("reranker_hedged_shards_total", "Shards sent a second time because a replica lagged.")
CACHE_HITS = Counter("reranker_cache_hits_total", "Distinct documents whose score was remembered.")
CACHE_MISSES = Counter("reranker_cache_misses_total", "Distinct documents that were looked up and had to be scored.")
CACHE_COALESCED = Counter(
    "reranker_cache_coalesced_total", "Distinct documents whose score another list was having made."
)
DEDUPLICATED_PAIRS = Counter("reranker_deduplicated_pairs_total", "Pairs not scored because their list repeats them.")
CACHE_EVICTIONS = Counter("reranker_cache_evictions_total", "Scores given up because the memory for them was full.")
CACHE_BYTES = Gauge("reranker_cache_bytes", "Memory that scores take in this ingress replica.")
REDIS_ERRORS = Counter("reranker_cache_redis_errors_total", "Calls of Redis that failed or took too long.")
REDIS_SKIPPED = Counter("reranker_cache_redis_skipped_total", "Calls of Redis left out because it did not work lately.")
REDIS_WRONG_VALUES = Counter("reranker_cache_redis_wrong_values_total", "Values in Redis that are none of ours.")
REDIS_SECONDS = Histogram(
    "reranker_cache_redis_seconds",
    "Seconds that looking up a list in Redis took.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
)
COUNTERS = (
    DOCUMENTS,
    TRUNCATED_DOCUMENTS,
    WINDOWED_DOCUMENTS,
    EXCLUDED_DOCUMENTS,
    UNSCORED_DOCUMENTS,
    REFUSED_LISTS,
    RETRIED_SHARDS,
    HEDGED_SHARDS,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_COALESCED,
    DEDUPLICATED_PAIRS,
    CACHE_EVICTIONS,
    REDIS_ERRORS,
    REDIS_SKIPPED,
    REDIS_WRONG_VALUES,
)
GAUGES = (CACHE_BYTES,)
HISTOGRAMS = (REDIS_SECONDS,)


SCALING_NEEDED = Gauge(
    "reranker_scaling_needed_replicas", "Replicas that the work of this moment needs.", ("deployment",)
)
SCALING_WANTED = Gauge("reranker_scaling_wanted_replicas", "Replicas there are to be, before bounds.", ("deployment",))
SCALING_QUEUE = Gauge("reranker_scaling_queue_seconds", "Expected wait for an engine.", ("deployment",))
SCALING_REASON = Gauge(
    "reranker_scaling_reason", "1 for the reason of the last decision, 0 for the others.", ("deployment", "reason")
)


class Recorder(Protocol):
    """Records metrics somewhere."""

    def count(self, counter: Counter, amount: int) -> None:
        """Add to a counter."""
        ...

    def set(self, gauge: Gauge, value: float) -> None:
        """Say what a number is now."""
        ...

    def observe(self, histogram: Histogram, value: float) -> None:
        """Count a value."""
        ...
