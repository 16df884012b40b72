"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from reranker.config.access import AccessConfig
from reranker.config.base import Group
from reranker.config.cache import CacheConfig, RedisConfig
from reranker.config.engine import EngineConfig, SimulatedConfig
from reranker.config.model import ExclusionRule, LongDocumentsConfig, ModelConfig, RulesConfig
from reranker.config.observability import ObservabilityConfig
from reranker.config.redis_address import RedisAddress
from reranker.config.scaling import ScalingConfig
from reranker.config.serving import (
    AdmissionConfig,
    LimitsConfig,
    PlanningConfig,
    PrioritiesConfig,
    PriorityConfig,
    ScatterConfig,
)

__all__ = [
    "AccessConfig",
    "AdmissionConfig",
    "CacheConfig",
    "EngineConfig",
    "ExclusionRule",
    "LimitsConfig",
    "LongDocumentsConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "PlanningConfig",
    "PrioritiesConfig",
    "PriorityConfig",
    "RedisAddress",
    "RedisConfig",
    "RerankerConfig",
    "RulesConfig",
    "ScalingConfig",
    "ScatterConfig",
    "SimulatedConfig",
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

    @model_validator(mode="after")
    def _pair_fits_shard(self) -> Self:
        if self.model.max_pair_tokens > self.planning.max_shard_tokens:
            raise ValueError("model.max_pair_tokens must not exceed planning.max_shard_tokens")
        return self
