"""The metrics of requests and of the score cache, as prometheus_client has them, and what one request adds to them.

Engines have theirs in `reranker/engine/metrics.py`; docs/metrics.md lists all. Units stand in the names, and are
Prometheus' base units. No label holds text that a client chose.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection

from prometheus_client import Counter, Histogram

from reranker.errors import (
    NotReadyError,
    OverloadedError,
    QuotaExceededError,
    RequestTooLargeError,
    StartFailedError,
)
from reranker.node_metrics import gauge
from reranker.record import STAGES, RequestRecord

OTHER = "other"
_OTHER_PATHS = ("/health", "/metrics")
_REFUSALS = {
    OverloadedError.code: "queue",
    RequestTooLargeError.code: "too_large",
    NotReadyError.code: "no_engine",
    StartFailedError.code: "no_engine",
    QuotaExceededError.code: "key",
}
REFUSALS = tuple(dict.fromkeys(_REFUSALS.values()))
RESULTS = ("answered", "refused", "failed")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_SHARDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)

# Requests
REQUESTS = Counter(
    "reranker_requests_total",
    "Requests for a ranking, by dialect and by how they ended: answered; partial, with unscored documents; "
    "client_gone; or the error's code (docs/errors.md).",
    ("dialect", "outcome"),
)
HTTP_RESPONSES = Counter(
    "reranker_http_responses_total",
    "Answers on any path, by status; 499: the client had gone.",
    ("path", "status"),
)
REQUEST_SECONDS = Histogram(
    "reranker_request_duration_seconds",
    "From a ranking request's head to its answer: answered, refused (4xx) or failed (5xx).",
    ("result",),
    buckets=_SECONDS,
)
STAGE_SECONDS = Histogram(
    "reranker_stage_duration_seconds",
    "Of an answered request: seconds in which a stage was going on. Stages overlap, so they may add up to more than "
    "the whole.",
    ("stage",),
    buckets=_SECONDS,
)
REQUEST_DOCUMENTS = Histogram("reranker_request_documents", "Documents of an answered request.", buckets=_COUNTS)
REQUEST_TOKENS = Histogram(
    "reranker_request_tokens", "Prompt tokens of an answered request, as `usage` has them.", buckets=_TOKENS
)

# Documents and tokens
DOCUMENTS = Counter("reranker_documents_total", "Documents of answered requests.")
PROMPT_TOKENS = Counter(
    "reranker_prompt_tokens_total",
    "Prompt tokens of answered requests, as `usage.prompt_tokens`; cached ones included.",
)
SCORED_PAIRS = Counter("reranker_scored_pairs_total", "Pairs that engines scored for answered requests.")
SCORED_TOKENS = Counter("reranker_scored_tokens_total", "Tokens of those pairs; the head once for each shard.")
TRUNCATED_DOCUMENTS = Counter("reranker_truncated_documents_total", "Documents that lost tokens to a limit.")
WINDOWED_DOCUMENTS = Counter("reranker_windowed_documents_total", "Documents scored in more than one window.")
EXCLUDED_DOCUMENTS = Counter("reranker_excluded_documents_total", "Documents a rule or threshold left out.")
UNSCORED_DOCUMENTS = Counter("reranker_unscored_documents_total", "Documents that time did not suffice for.")

# Scatter and gather
REQUEST_SHARDS = Histogram("reranker_request_shards", "Shards of a request that engines worked on.", buckets=_SHARDS)
REQUEST_REPLICAS = Histogram(
    "reranker_request_replicas", "Distinct replicas that answered a request's shards.", buckets=_SHARDS
)
SLOWEST_SHARD = Histogram(
    "reranker_slowest_shard_ratio",
    "The slowest shard's time over the median of its request's shards; of requests with two or more.",
    buckets=(1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10),
)
RETRIED_SHARDS = Counter("reranker_retried_shards_total", "Shards sent again because a replica was lost.")
HEDGED_SHARDS = Counter("reranker_hedged_shards_total", "Shards sent a second time because a replica lagged.")
DROPPED_SHARDS = Counter(
    "reranker_dropped_shards_total",
    "Sendings of shards that were called off: their request had ended, or another replica was faster.",
)

# Admission
ADMISSION_REFUSALS = Counter(
    "reranker_admission_refusals_total",
    "Requests turned away before any work: queue (429, those here already), too_large (413, more than is ever let in), "
    "no_engine (503), key (429, the key's own limits).",
    ("reason",),
)
REQUESTS_IN_FLIGHT = gauge("reranker_requests_in_flight", "Requests that were let in and are not answered.")
TOKENS_IN_FLIGHT = gauge("reranker_tokens_in_flight", "Their tokens.")
SHARDS_IN_FLIGHT = gauge("reranker_shards_in_flight", "Their shards that are at a replica.")
LIVE_REPLICAS = gauge("reranker_live_replicas", "Engine replicas that this ingress knows to be alive.")

# Score cache
CACHE_HITS = Counter("reranker_cache_hits_total", "Distinct documents whose score was remembered.")
CACHE_MISSES = Counter("reranker_cache_misses_total", "Distinct documents that were looked up and had to be scored.")
CACHE_COALESCED = Counter(
    "reranker_cache_coalesced_total", "Distinct documents whose score another list was having made."
)
DEDUPLICATED_PAIRS = Counter("reranker_deduplicated_pairs_total", "Pairs not scored because their list repeats them.")
CACHE_EVICTIONS = Counter("reranker_cache_evictions_total", "Scores given up because the memory for them was full.")
CACHE_BYTES = gauge("reranker_cache_bytes", "Memory that scores take in an ingress replica.")
REDIS_ERRORS = Counter("reranker_cache_redis_errors_total", "Calls of Redis that failed or took too long.")
REDIS_SKIPPED = Counter("reranker_cache_redis_skipped_total", "Calls of Redis left out because it did not work lately.")
REDIS_WRONG_VALUES = Counter("reranker_cache_redis_wrong_values_total", "Values in Redis that are none of ours.")
REDIS_SECONDS = Histogram(
    "reranker_cache_redis_seconds",
    "Seconds that looking up a list in Redis took.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
)

# Looked up once: a series is there, and 0, from the start, and `labels` takes as long as counting does.
_STAGES = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}
_RESULTS = {result: REQUEST_SECONDS.labels(result) for result in RESULTS}
_REASONS = {reason: ADMISSION_REFUSALS.labels(reason) for reason in REFUSALS}


class RequestMetrics:
    """Counts requests, each before its answer goes out, so that no client has an answer that is not counted."""

    def __init__(self, ranking_paths: Collection[str]) -> None:
        """Count nothing yet.

        Args:
            ranking_paths: The paths on which rankings are asked for. Any other is counted as an HTTP answer only.
        """
        self._ranking_paths = frozenset(ranking_paths)
        self._paths = self._ranking_paths.union(_OTHER_PATHS)

    def count(self, record: RequestRecord) -> None:
        """Count a request whose status is known. Blocks for some 50 µs."""
        path = record.path if record.path in self._paths else OTHER
        HTTP_RESPONSES.labels(path, str(record.status)).inc()
        if record.path not in self._ranking_paths or record.method != "POST":
            return
        REQUESTS.labels(record.dialect or "unknown", _outcome(record)).inc()
        result = "answered" if record.status < 300 else "refused" if record.status < 500 else "failed"
        _RESULTS[result].observe(record.total_s)
        _count_shards(record)
        if record.error in _REFUSALS:
            _REASONS[_REFUSALS[record.error]].inc()
        if record.rankings and record.status < 300:
            _count_rankings(record)


def _outcome(record: RequestRecord) -> str:
    if record.error:
        return record.error
    if record.status >= 300:
        return OTHER
    return "partial" if any(ranking.unscored for ranking in record.rankings) else "answered"


def _count_rankings(record: RequestRecord) -> None:
    tokens = record.prompt_tokens
    REQUEST_DOCUMENTS.observe(record.documents)
    REQUEST_TOKENS.observe(tokens)
    DOCUMENTS.inc(record.documents)
    PROMPT_TOKENS.inc(tokens)
    for stage, took_s in record.stages_s().items():
        _STAGES[stage].observe(took_s)
    for one in record.rankings:
        for counter, amount in (
            (TRUNCATED_DOCUMENTS, one.truncated_documents),
            (WINDOWED_DOCUMENTS, one.windowed_documents),
            (EXCLUDED_DOCUMENTS, len(one.excluded)),
            (UNSCORED_DOCUMENTS, len(one.unscored)),
            (DEDUPLICATED_PAIRS, one.deduplicated_pairs),
            (CACHE_HITS, one.cached_documents),
            (CACHE_MISSES, one.missed_documents),
            (CACHE_COALESCED, one.coalesced_documents),
        ):
            if amount:
                counter.inc(amount)


def _count_shards(record: RequestRecord) -> None:
    """Of requests that failed as well: what became of their shards is why."""
    shards = record.shards
    if not shards:
        return
    answered = [one for one in shards if one.answer is not None]
    for counter, amount in (
        (SCORED_PAIRS, sum(one.pairs for one in answered)),
        (SCORED_TOKENS, sum(one.tokens for one in answered)),
        (RETRIED_SHARDS, record.retries),
        (HEDGED_SHARDS, record.hedges),
        (DROPPED_SHARDS, sum(attempt.outcome == "dropped" for one in shards for attempt in one.attempts)),
    ):
        if amount:
            counter.inc(amount)
    if not answered:
        return
    REQUEST_SHARDS.observe(len(answered))
    REQUEST_REPLICAS.observe(record.replicas)
    if len(answered) > 1:
        took_s = [one.total_s for one in answered]
        SLOWEST_SHARD.observe(max(took_s) / max(statistics.median(took_s), 1e-6))
