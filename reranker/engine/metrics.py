"""The metrics of an engine, and the figures they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from reranker.node_metrics import gauge


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Figures of vLLM or of the simulated device. Counted ones only rise from its start on."""

    running_pairs: int = 0
    waiting_pairs: int = 0
    preemptions: int = 0
    """Counted: pairs put back for want of memory."""
    queried_tokens: int = 0
    """Counted: prompt tokens looked up in the prefix cache."""
    hit_tokens: int = 0
    """Counted: those found there."""
    kv_usage: float = 0.0
    """Share of the KV cache in use."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's work since its start and its queue, in tokens as `Shard.work_tokens` counts them."""

    steps: int = 0
    busy_s: float = 0.0
    pairs: int = 0
    tokens: int = 0
    queued_pairs: int = 0
    queued_tokens: int = 0
    backend: BackendStats = BackendStats()


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
ENGINES = gauge("reranker_engines", "1 for each engine replica that reports.")
STEPS = Counter("reranker_engine_steps_total", "Batches that engines computed.")
BUSY_SECONDS = Counter("reranker_engine_busy_seconds_total", "Seconds in which engines had work.")
PAIRS = Counter("reranker_engine_pairs_total", "Pairs that engines computed, whoever still waited for them.")
TOKENS = Counter("reranker_engine_tokens_total", "Tokens of those pairs; the head once for each shard.")
QUEUED_TOKENS = gauge("reranker_engine_queued_tokens", "Tokens that are in an engine, waiting or being computed.")
QUEUED_PAIRS = gauge("reranker_engine_queued_pairs", "Pairs that are in an engine, waiting or being computed.")

VLLM_RUNNING = gauge("reranker_vllm_requests_running", "Pairs in vLLM's running batches.")
VLLM_WAITING = gauge("reranker_vllm_requests_waiting", "Pairs in vLLM's own queue; ours is in front of it.")
VLLM_PREEMPTIONS = Counter("reranker_vllm_preemptions_total", "Pairs that vLLM put back for want of KV cache.")
VLLM_QUERIED_TOKENS = Counter(
    "reranker_vllm_prefix_cache_queried_tokens_total", "Tokens of prompts that vLLM looked up in its prefix cache."
)
VLLM_HIT_TOKENS = Counter("reranker_vllm_prefix_cache_hit_tokens_total", "Those of them that it found there.")
VLLM_KV_USAGE = gauge("reranker_vllm_kv_cache_usage_ratio", "KV cache in use, from 0 to 1.")


class EngineMetrics:
    """Follows the figures of one engine."""

    def __init__(self, checks: Iterable[str]) -> None:
        """Start the series of the named start-up checks at 0."""
        self._last = EngineStats()
        for result in ("passed", "off", *checks):
            STARTUP_CHECKS.labels(result)

    def update(self, now: EngineStats) -> None:
        """Add the work since the last update to the counters, and set the gauges."""
        last, self._last = self._last, now
        for counter, new, old in (
            (STEPS, now.steps, last.steps),
            (BUSY_SECONDS, now.busy_s, last.busy_s),
            (PAIRS, now.pairs, last.pairs),
            (TOKENS, now.tokens, last.tokens),
            (VLLM_PREEMPTIONS, now.backend.preemptions, last.backend.preemptions),
            (VLLM_QUERIED_TOKENS, now.backend.queried_tokens, last.backend.queried_tokens),
            (VLLM_HIT_TOKENS, now.backend.hit_tokens, last.backend.hit_tokens),
        ):
            counter.inc(new - old)
        for level, value in (
            (ENGINES, 1),
            (QUEUED_TOKENS, now.queued_tokens),
            (QUEUED_PAIRS, now.queued_pairs),
            (VLLM_RUNNING, now.backend.running_pairs),
            (VLLM_WAITING, now.backend.waiting_pairs),
            (VLLM_KV_USAGE, now.backend.kv_usage),
        ):
            level.set(value)
