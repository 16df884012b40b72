"""What is counted of an engine, from what it says of itself."""

from __future__ import annotations

from reranker.metrics import catalog
from reranker.metrics.kinds import Recorder
from reranker.types import EngineStats


class EngineFigures:
    """Keeps the metrics of one engine up to what it last said."""

    def __init__(self, recorder: Recorder) -> None:
        """Start with an engine that has done nothing."""
        self._recorder = recorder
        self._last = EngineStats()

    def take(self, now: EngineStats) -> None:
        """Record what has been done since the last time, and what there is now."""
        last, self._last = self._last, now
        for counter, new, old in (
            (catalog.ENGINE_STEPS, now.steps, last.steps),
            (catalog.ENGINE_BUSY_SECONDS, now.busy_s, last.busy_s),
            (catalog.ENGINE_PAIRS, now.pairs, last.pairs),
            (catalog.ENGINE_TOKENS, now.tokens, last.tokens),
            (catalog.VLLM_PREEMPTIONS, now.backend.preemptions, last.backend.preemptions),
            (catalog.VLLM_QUERIED_TOKENS, now.backend.queried_tokens, last.backend.queried_tokens),
            (catalog.VLLM_HIT_TOKENS, now.backend.hit_tokens, last.backend.hit_tokens),
        ):
            self._recorder.count(counter, new - old)
        for gauge, value in (
            (catalog.ENGINES, 1),
            (catalog.QUEUED_TOKENS, now.queued_tokens),
            (catalog.QUEUED_TOKENS_MAX, now.queued_tokens),
            (catalog.QUEUED_PAIRS, now.queued_pairs),
            (catalog.VLLM_RUNNING, now.backend.running_pairs),
            (catalog.VLLM_WAITING, now.backend.waiting_pairs),
            (catalog.VLLM_KV_USAGE, now.backend.kv_usage),
        ):
            self._recorder.set(gauge, value)
