"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(_Config):
    """Which model scores, and how its prompts are made."""

    name: str = Field(default="demo", min_length=1)
    """"demo" (bundled), a local folder, or a hub id such as Qwen/Qwen3-Reranker-0.6B."""
    revision: str | None = None
    """Branch, tag or commit on the hub. None: the default branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": float32 for the demo model (it is tiny), else what the checkpoint says."""
    max_pair_tokens: PositiveInt = 8_192
    """Tokens one prompt may have; a longer document is cut at its end. Never more than the model's own limit."""
    instruction: str = Field(
        default="Given a web search query, retrieve relevant passages that answer the query", min_length=1
    )
    """Used when a request brings none. The default is the model card's."""


class EngineConfig(_Config):
    """How a replica holds its vLLM engine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto": one GPU per replica if the cluster has any when the application is built, else the CPU."""
    max_batch_tokens: PositiveInt = 8_192
    """Tokens vLLM computes in one step. Higher: better GPU use, longer wait for a small list behind a big one."""
    max_batch_pairs: PositiveInt = 256
    """Pairs vLLM computes in one step."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory vLLM may take. On a CPU it has no meaning."""
    cpu_kv_cache_gib: PositiveInt = 1
    """Memory for the prefix cache on a CPU; vLLM's own default takes a large part of the machine."""
    cpu_threads: PositiveInt | None = None
    """Compute threads of one replica on a CPU. None: as many as the cores Ray gives it (`cpus`)."""
    cpus: PositiveFloat = 1
    """Cores Ray reserves for one replica."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # Any: vLLM's arguments have every type
    """Any other vLLM engine argument, by its name; it wins over ours."""


class PlanningConfig(_Config):
    """How one list is cut into shards."""

    max_shard_tokens: PositiveInt = 65_536
    """Tokens one call to a replica may carry. Lower: a long list spreads more evenly; higher: fewer hops."""
    min_shard_tokens: PositiveInt = 2_048
    """A list is not cut into shards smaller than this: a hop costs milliseconds, so a shard must be worth one."""

    @model_validator(mode="after")
    def _min_fits_max(self) -> Self:
        if self.min_shard_tokens > self.max_shard_tokens:
            raise ValueError("min_shard_tokens must not exceed max_shard_tokens")
        return self


class LimitsConfig(_Config):
    """What one request may ask for."""

    max_documents: PositiveInt = 10_000
    """Documents per list."""
    max_request_bytes: PositiveInt = 64 * 1024 * 1024
    """Size of a request's body."""
    timeout_s: PositiveFloat = 120
    """Seconds until a list that is not scored yet is given up (504)."""


class RerankerConfig(_Config):
    """Everything that can be configured."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    planning: PlanningConfig = PlanningConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _pair_fits_shard(self) -> Self:
        if self.model.max_pair_tokens > self.planning.max_shard_tokens:
            raise ValueError("model.max_pair_tokens must not exceed planning.max_shard_tokens")
        return self
