"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from reranker.config.model import (
    EngineConfig,
    EvidenceConfig,
    ExclusionRule,
    Group,
    LongDocumentsConfig,
    ModelConfig,
    RulesConfig,
    SimulatedConfig,
)
from reranker.config.search import EmbeddingConfig, MilvusConfig, SearchConfig, SearchIndexConfig
from reranker.config.service import (
    AccessConfig,
    AdmissionConfig,
    CacheConfig,
    IngressConfig,
    LimitsConfig,
    ObservabilityConfig,
    PlanningConfig,
    PrioritiesConfig,
    PriorityConfig,
    RedisConfig,
    ScalingConfig,
    ScatterConfig,
    TracingConfig,
    UIConfig,
)
from reranker.errors import UnknownInstructionError


class RerankerConfig(Group):
    """Everything that can be configured."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    ingress: IngressConfig = IngressConfig()
    long_documents: LongDocumentsConfig = LongDocumentsConfig()
    rules: RulesConfig = RulesConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    planning: PlanningConfig = PlanningConfig()
    priorities: PrioritiesConfig = PrioritiesConfig()
    admission: AdmissionConfig = AdmissionConfig()
    scatter: ScatterConfig = ScatterConfig()
    cache: CacheConfig = CacheConfig()
    limits: LimitsConfig = LimitsConfig()
    access: AccessConfig = AccessConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    search: SearchConfig = SearchConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _groups_agree(self) -> Self:
        """Each message begins with the key to change, and ends with how: `reranker config check` shows its line."""
        queue_s, timeout_s = self.admission.max_queue_s, self.limits.timeout_s
        pair_tokens, window_tokens = self.model.max_pair_tokens, self.long_documents.window_tokens
        if pair_tokens > self.planning.max_shard_tokens:
            raise ValueError("model.max_pair_tokens must not exceed planning.max_shard_tokens")
        if queue_s > timeout_s:
            raise ValueError(
                f"admission.max_queue_s: lists may queue {queue_s:g} s, and are given up after {timeout_s:g} s. "
                f"Lower it below limits.timeout_s"
            )
        if self.admission.max_tokens_in_flight < pair_tokens:
            raise ValueError(
                f"admission.max_tokens_in_flight: not even one document of {pair_tokens} tokens "
                f"(model.max_pair_tokens) fits. Raise it: a whole list must fit"
            )
        if window_tokens is not None and window_tokens > pair_tokens:
            raise ValueError(
                f"long_documents.window_tokens: a window of {window_tokens} tokens does not fit a prompt of "
                f"{pair_tokens}. Lower it below model.max_pair_tokens"
            )
        for name, index in self.search.indexes.items():
            try:
                self.model.instruction_text(index.instruction)
            except UnknownInstructionError as error:
                raise ValueError(f"search.indexes.{name}.{error}") from None
        if self.model.name in self.engine.lora_adapters:
            raise ValueError("engine.lora_adapters has an adapter with the model's own name")
        return self
