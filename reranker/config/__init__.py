"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from reranker.config.model import (
    EngineConfig,
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

__all__ = [
    "AccessConfig",
    "AdmissionConfig",
    "CacheConfig",
    "EmbeddingConfig",
    "EngineConfig",
    "ExclusionRule",
    "Group",
    "LimitsConfig",
    "LongDocumentsConfig",
    "MilvusConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "PlanningConfig",
    "PrioritiesConfig",
    "PriorityConfig",
    "RedisConfig",
    "RerankerConfig",
    "RulesConfig",
    "ScalingConfig",
    "ScatterConfig",
    "SearchConfig",
    "SearchIndexConfig",
    "SimulatedConfig",
    "TracingConfig",
    "UIConfig",
]


class RerankerConfig(Group):
    """Everything that can be configured."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    long_documents: LongDocumentsConfig = LongDocumentsConfig()
    rules: RulesConfig = RulesConfig()
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
    def _pair_fits_shard(self) -> Self:
        if self.model.max_pair_tokens > self.planning.max_shard_tokens:
            raise ValueError("model.max_pair_tokens must not exceed planning.max_shard_tokens")
        return self

    @model_validator(mode="after")
    def _instructions_of_indexes_exist(self) -> Self:
        for name, index in self.search.indexes.items():
            try:
                self.model.instruction_text(index.instruction)
            except UnknownInstructionError as error:
                raise ValueError(f"search.indexes.{name}.{error}") from None
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if self.model.name in self.engine.lora_adapters:
            raise ValueError("engine.lora_adapters has an adapter with the model's own name")
        return self
