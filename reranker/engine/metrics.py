"""The metrics of an engine, and the figures they are made of."""

from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram

EngineStats: TypeAlias = dict[Counter | Gauge, float]
"""Figures of an engine. A counter's is its total since the engine's start."""

LOAD_SECONDS = Histogram(
    "reranker_engine_load_seconds",
    "From a replica's start to its being able to score: model loaded, start-up check passed.",
    buckets=(0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1_800),
)
STARTUP_CHECKS = Counter(
    "reranker_engine_startup_checks_total",
    "Start-up checks of loaded models: passed, off (configured so, or simulated), or the check that failed.",
    ("result",),
)
for _result in ("passed", "off", "tail", "finite", "spread", "separation", "batch", "repetition"):
    STARTUP_CHECKS.labels(_result)  # a series of each, from 0
ENGINES = Gauge("reranker_engines", "1 for each engine replica that reports.")
DEPLOYMENT = Gauge("reranker_engine_deployment", "1; says by `deployment` whose engine a replica is.", ("deployment",))
STEPS = Counter("reranker_engine_steps_total", "Batches that engines computed.")
BUSY_SECONDS = Counter("reranker_engine_busy_seconds_total", "Seconds in which engines had work.")
PAIRS = Counter("reranker_engine_pairs_total", "Pairs that engines computed, whoever still waited for them.")
TOKENS = Counter("reranker_engine_tokens_total", "Tokens of those pairs; the head once for each shard.")
QUEUED_TOKENS = Gauge("reranker_engine_queued_tokens", "Tokens that are in an engine, waiting or being computed.")
QUEUED_PAIRS = Gauge("reranker_engine_queued_pairs", "Pairs that are in an engine, waiting or being computed.")

VLLM_RUNNING = Gauge("reranker_vllm_requests_running", "Pairs in vLLM's running batches.")
VLLM_WAITING = Gauge("reranker_vllm_requests_waiting", "Pairs in vLLM's own queue; ours is in front of it.")
VLLM_PREEMPTIONS = Counter("reranker_vllm_preemptions_total", "Pairs that vLLM put back for want of KV cache.")
VLLM_QUERIED_TOKENS = Counter("reranker_vllm_prefix_cache_queried_tokens_total", "Tokens looked up in vLLM's cache.")
VLLM_HIT_TOKENS = Counter("reranker_vllm_prefix_cache_hit_tokens_total", "Those of them that it found there.")
VLLM_KV_USAGE = Gauge("reranker_vllm_kv_cache_usage_ratio", "KV cache in use, from 0 to 1.")
