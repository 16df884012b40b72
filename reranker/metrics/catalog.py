"""Every metric of ours, declared once: docs/metrics.md is made of this file, and both exporters export from it.

Units stand in the names, and are Prometheus' base units.
"""

from __future__ import annotations

from reranker.errors import for_clients
from reranker.metrics.kinds import OTHER, Counter, Gauge, Histogram, Label
from reranker.record import STAGES

ANSWERED, PARTIAL, UNKNOWN = "answered", "partial", "unknown"
OUTCOMES = (
    *(ANSWERED, PARTIAL, "client_gone"),
    *dict.fromkeys(one.code for one in for_clients()),
    OTHER,
)
DIALECTS = ("rerank", "infinity", "voyage", "tei", "score", "search", UNKNOWN)
_STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 414, 415, 422, 429, 431, 499, 500, 503, 504)
STATUSES = (*map(str, _STATUSES), OTHER)
RANKING_PATHS = (
    *("/v1/rerank", "/v2/rerank", "/rerank", "/v1/v1/rerank", "/v1/v2/rerank", "/score", "/v1/score"),
    *("/infinity/rerank", "/voyage/v1/rerank", "/v1/search", "/search"),
)
"""`reranker.dialects.choose` and `.search` have them too; they stand above this."""
PATHS = (*RANKING_PATHS, "/health", "/metrics", OTHER)
REFUSALS = ("queue", "too_large", "no_engine", "key")
STARTUP_RESULTS = ("passed", "off", "tail", "finite", "spread", "separation", "batch", "repetition")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_SHARDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)

# Requests
REQUESTS = Counter(
    "reranker_requests_total",
    "Requests for a ranking, by dialect and by how they ended: answered; partial, with unscored documents; "
    "client_gone; or the error's code (docs/errors.md).",
    (Label("dialect", DIALECTS), Label("outcome", OUTCOMES)),
)
HTTP_RESPONSES = Counter(
    "reranker_http_responses_total",
    "Answers on any path, by status; 499: the client had gone.",
    (Label("path", PATHS), Label("status", STATUSES)),
)
REQUEST_SECONDS = Histogram(
    "reranker_request_duration_seconds",
    "From a ranking request's head to its answer: answered, refused (4xx) or failed (5xx).",
    _SECONDS,
    (Label("result", ("answered", "refused", "failed")),),
)
STAGE_SECONDS = Histogram(
    "reranker_stage_duration_seconds",
    "Of an answered request: seconds in which a stage was going on. Stages overlap, so they may add up to more than "
    "the whole.",
    _SECONDS,
    (Label("stage", STAGES),),
)
REQUEST_DOCUMENTS = Histogram("reranker_request_documents", "Documents of an answered request.", _COUNTS)
REQUEST_TOKENS = Histogram(
    "reranker_request_tokens", "Prompt tokens of an answered request, as `usage` has them.", _TOKENS
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
REQUEST_SHARDS = Histogram("reranker_request_shards", "Shards of a request that engines worked on.", _SHARDS)
REQUEST_REPLICAS = Histogram(
    "reranker_request_replicas", "Distinct replicas that answered a request's shards.", _SHARDS
)
SLOWEST_SHARD = Histogram(
    "reranker_slowest_shard_ratio",
    "The slowest shard's time over the median of its request's shards; of requests with two or more.",
    (1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10),
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
    (Label("reason", REFUSALS),),
)
REQUESTS_IN_FLIGHT = Gauge("reranker_requests_in_flight", "Requests that were let in and are not answered.")
TOKENS_IN_FLIGHT = Gauge("reranker_tokens_in_flight", "Their tokens.")
SHARDS_IN_FLIGHT = Gauge("reranker_shards_in_flight", "Their shards that are at a replica.")
LIVE_REPLICAS = Gauge("reranker_live_replicas", "Engine replicas that an ingress knows to be alive.", across="max")

# Score cache
CACHE_HITS = Counter("reranker_cache_hits_total", "Distinct documents whose score was remembered.")
CACHE_MISSES = Counter("reranker_cache_misses_total", "Distinct documents that were looked up and had to be scored.")
CACHE_COALESCED = Counter(
    "reranker_cache_coalesced_total", "Distinct documents whose score another list was having made."
)
DEDUPLICATED_PAIRS = Counter("reranker_deduplicated_pairs_total", "Pairs not scored because their list repeats them.")
CACHE_EVICTIONS = Counter("reranker_cache_evictions_total", "Scores given up because the memory for them was full.")
CACHE_BYTES = Gauge("reranker_cache_bytes", "Memory that scores take in the ingress replicas.")
REDIS_ERRORS = Counter("reranker_cache_redis_errors_total", "Calls of Redis that failed or took too long.")
REDIS_SKIPPED = Counter("reranker_cache_redis_skipped_total", "Calls of Redis left out because it did not work lately.")
REDIS_WRONG_VALUES = Counter("reranker_cache_redis_wrong_values_total", "Values in Redis that are none of ours.")
REDIS_SECONDS = Histogram(
    "reranker_cache_redis_seconds",
    "Seconds that looking up a list in Redis took.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
)

# Engines
LOAD_SECONDS = Histogram(
    "reranker_engine_load_seconds",
    "From a replica's start to its being able to score: model loaded, start-up check passed.",
    (0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1_800),
)
STARTUP_CHECKS = Counter(
    "reranker_engine_startup_checks_total",
    "Start-up checks of loaded models: passed, off (configured so, or simulated), or the check that failed.",
    (Label("result", STARTUP_RESULTS),),
)
ENGINE_STEPS = Counter("reranker_engine_steps_total", "Batches that engines computed.")
ENGINE_BUSY_SECONDS = Counter("reranker_engine_busy_seconds_total", "Seconds in which engines had work.")
ENGINE_PAIRS = Counter("reranker_engine_pairs_total", "Pairs that engines computed, whoever still waited for them.")
ENGINE_TOKENS = Counter("reranker_engine_tokens_total", "Tokens of those pairs; the head once for each shard.")
QUEUED_TOKENS = Gauge("reranker_engine_queued_tokens", "Tokens that are in engines, waiting or being computed.")
QUEUED_TOKENS_MAX = Gauge(
    "reranker_engine_queued_tokens_max", "Those of the engine that has most of them.", across="max"
)
QUEUED_PAIRS = Gauge("reranker_engine_queued_pairs", "Pairs that are in engines, waiting or being computed.")
ENGINES = Gauge("reranker_engines", "Engine replicas that report.")

# vLLM
VLLM_RUNNING = Gauge("reranker_vllm_requests_running", "Pairs in vLLM's running batches.")
VLLM_WAITING = Gauge("reranker_vllm_requests_waiting", "Pairs in vLLM's own queues; ours is in front of them.")
VLLM_PREEMPTIONS = Counter("reranker_vllm_preemptions_total", "Pairs that vLLM put back for want of KV cache.")
VLLM_QUERIED_TOKENS = Counter(
    "reranker_vllm_prefix_cache_queried_tokens_total", "Tokens of prompts that vLLM looked up in its prefix cache."
)
VLLM_HIT_TOKENS = Counter("reranker_vllm_prefix_cache_hit_tokens_total", "Those of them that it found there.")
VLLM_KV_USAGE = Gauge(
    "reranker_vllm_kv_cache_usage_ratio", "KV cache in use, from 0 to 1; of the fullest engine.", across="max"
)

INGRESS = (
    *(REQUESTS, HTTP_RESPONSES, REQUEST_SECONDS, STAGE_SECONDS, REQUEST_DOCUMENTS, REQUEST_TOKENS),
    *(DOCUMENTS, PROMPT_TOKENS, SCORED_PAIRS, SCORED_TOKENS),
    *(TRUNCATED_DOCUMENTS, WINDOWED_DOCUMENTS, EXCLUDED_DOCUMENTS, UNSCORED_DOCUMENTS),
    *(REQUEST_SHARDS, REQUEST_REPLICAS, SLOWEST_SHARD, RETRIED_SHARDS, HEDGED_SHARDS, DROPPED_SHARDS),
    *(ADMISSION_REFUSALS, REQUESTS_IN_FLIGHT, TOKENS_IN_FLIGHT, SHARDS_IN_FLIGHT, LIVE_REPLICAS),
    *(CACHE_HITS, CACHE_MISSES, CACHE_COALESCED, DEDUPLICATED_PAIRS, CACHE_EVICTIONS, CACHE_BYTES),
    *(REDIS_ERRORS, REDIS_SKIPPED, REDIS_WRONG_VALUES, REDIS_SECONDS),
)
"""What ingress replicas record."""
ENGINE = (
    *(LOAD_SECONDS, STARTUP_CHECKS, ENGINES, QUEUED_TOKENS, QUEUED_TOKENS_MAX, QUEUED_PAIRS),
    *(ENGINE_STEPS, ENGINE_BUSY_SECONDS, ENGINE_PAIRS, ENGINE_TOKENS),
    *(VLLM_RUNNING, VLLM_WAITING, VLLM_PREEMPTIONS, VLLM_QUERIED_TOKENS, VLLM_HIT_TOKENS, VLLM_KV_USAGE),
)
"""What engine replicas record."""

# Scaling
SCALING_REASONS = ("queue", "load", "enough", "recent need", "less needed", "no figures", "no speed yet")
_DEPLOYMENT = Label("deployment", ("EngineReplica", "Ingress"))
SCALING_NEEDED = Gauge(
    "reranker_scaling_needed_replicas", "Replicas that the work of this moment needs.", (_DEPLOYMENT,)
)
SCALING_WANTED = Gauge("reranker_scaling_wanted_replicas", "Replicas there are to be, before bounds.", (_DEPLOYMENT,))
SCALING_QUEUE = Gauge("reranker_scaling_queue_seconds", "Expected wait for an engine.", (_DEPLOYMENT,))
SCALING_REASON = Gauge(
    "reranker_scaling_reason",
    "1 for the reason of the last decision, 0 for the others.",
    (_DEPLOYMENT, Label("reason", SCALING_REASONS)),
)
CONTROLLER = (SCALING_NEEDED, SCALING_WANTED, SCALING_QUEUE, SCALING_REASON)
"""What the autoscaling policy records, in Serve's controller; through Ray's exporter only."""

COUNTED = INGRESS + ENGINE
"""What is counted in books, and summed over all replicas."""
