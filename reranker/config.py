"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reranker.errors import UnknownInstructionError
from reranker.types import Aggregate, LongDocuments, Priority, TruncationSide


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
    """Tokens one prompt may have, template included. Never more than the model's own limit."""
    instruction: str = Field(
        default="Given a web search query, retrieve relevant passages that answer the query", min_length=1
    )
    """For requests that bring none: a text, or a name from `instructions` ("@medical"). Default: the model card's."""
    instructions: dict[str, str] = {
        "web": "Given a web search query, retrieve relevant passages that answer the query",
        "medical": "Given a medical question, retrieve passages of medical literature that answer it",
        "patent": "Given the description of an invention, retrieve patents that disclose the same technical solution",
        "code": "Given a programming question, retrieve code or documentation that answers it",
    }
    """Instructions that a request can name: `instruction: "@medical"`."""

    @model_validator(mode="after")
    def _default_instruction_exists(self) -> Self:
        try:
            self.instruction_text()
        except UnknownInstructionError as error:
            raise ValueError(str(error)) from None
        return self

    def instruction_text(self, asked: str | None = None) -> str:
        """The instruction a request gets: its own text, the one it names, or the default.

        Raises:
            UnknownInstructionError: It names one that is not configured.
        """
        instruction = asked or self.instruction
        if not re.fullmatch(r"@[\w-]+", instruction):
            return instruction
        try:
            return self.instructions[instruction[1:]]
        except KeyError:
            raise UnknownInstructionError(tuple(f"@{name}" for name in self.instructions)) from None


class LongDocumentsConfig(_Config):
    """What happens to a document too long for one prompt. A request may choose otherwise."""

    mode: LongDocuments = "truncate"
    """"truncate": cut it, and say so. "windows": score all of it, in overlapping windows."""
    truncation_side: TruncationSide = "end"
    """Which end is cut off: "end" or "start"."""
    aggregate: Aggregate = "max"
    """The document's score from its windows': "max" (the best passage counts), "mean" or "first"."""
    window_tokens: PositiveInt | None = None
    """Document tokens per window. None: as many as the prompt has room for."""
    overlap_tokens: NonNegativeInt = 128
    """Tokens that neighbouring windows share, so that no passage is torn in two. Less than half a window."""
    max_windows: PositiveInt = 256
    """Windows per document; what lies beyond is cut off, and said so."""


class ExclusionRule(_Config):
    """Takes documents out of every answer: those that match its metadata and its pattern."""

    name: str = Field(min_length=1)
    """Named in the answer for each document it excluded."""
    metadata: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Fields of a document sent as an object, and the values that match; a dotted name reaches into objects."""
    pattern: str | None = None
    """Regular expression (Python's) to be found in the document's text."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.metadata and self.pattern is None:
            raise ValueError("a rule needs metadata or a pattern; without one it would exclude every document")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from None
        return self


class RulesConfig(_Config):
    """What happens to scored documents. Nothing is dropped silently: the answer lists what a rule excluded."""

    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Leave out documents with a lower relevance score. A request may choose otherwise."""
    exclude: tuple[ExclusionRule, ...] = ()
    """Exclusion rules, tried in order; the first that matches is named."""


class SimulatedConfig(_Config):
    """What the imagined device of the simulated engine costs. The default is of the order of a 0.6B model on an L4."""

    tokens_per_s: PositiveFloat = 40_000
    """Tokens it computes in a second."""
    step_s: NonNegativeFloat = 0.005
    """Seconds every step takes besides."""
    jitter: NonNegativeFloat = 0.05
    """Spread of a step's duration: the standard deviation of its logarithm."""
    failure_rate: float = Field(default=0, ge=0, le=1)
    """Probability that a step fails, and the engine with it."""
    seed: int | None = None
    """Of jitter and failures. None: another one each time."""


class EngineConfig(_Config):
    """How a replica holds its vLLM engine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto": one GPU per replica if the cluster has any when the application is built, else the CPU."""
    simulated: SimulatedConfig | None = None
    """Simulate an engine instead of holding one: meaningless scores in a realistic time. None: vLLM."""
    max_batch_tokens: PositiveInt = 8_192
    """Tokens the engine computes in one step, at most."""
    target_step_s: PositiveFloat | None = 0.05
    """Seconds a step should take: a batch has the tokens that the engine, at the pace it has shown, computes in that
    time. Shorter: a small list waits less behind a big one, and each step costs something. None: full batches."""
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
    scheduling: Literal["fair", "fcfs"] = "fair"
    """Whose pairs go first: "fair": lists by turns, in proportion to their weights; "fcfs": the list that came first,
    to compare with."""
    startup_check: bool = True
    """Score a few known pairs before a replica takes traffic, and refuse a model that gets them wrong."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share one model; a replica then takes as many. For models that do not fit one."""
    quantization: str | None = None
    """vLLM's name of a quantization ("fp8", "awq", "gptq", …). None: what the checkpoint's own configuration says."""
    lora_adapter: str | None = None
    """A folder with a LoRA adapter as PEFT saves it, applied to every pair. For Qwen3 models."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # Any: vLLM's arguments have every type
    """Any other vLLM engine argument, by its name; it wins over ours."""

    @model_validator(mode="after")
    def _cpu_has_no_gpus_to_share(self) -> Self:
        if self.device == "cpu" and self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size needs GPUs; device is cpu")
        return self


class PlanningConfig(_Config):
    """How one list is cut into shards."""

    max_shard_tokens: PositiveInt = 65_536
    """Tokens one call to a replica may carry. Lower: a long list spreads more evenly; higher: fewer hops."""
    min_shard_tokens: PositiveInt = 2_048
    """A list is not cut into shards smaller than this: a hop costs milliseconds, so a shard must be worth one."""
    slack: NonNegativeFloat = 0.05
    """A list is cut into no more shards than bring its estimated end within this share of the earliest possible."""

    @model_validator(mode="after")
    def _min_fits_max(self) -> Self:
        if self.min_shard_tokens > self.max_shard_tokens:
            raise ValueError("min_shard_tokens must not exceed max_shard_tokens")
        return self


class PriorityConfig(_Config):
    """What a class of requests gets."""

    weight: PositiveFloat = 1
    """Share of an engine that one list gets, against the other lists in it."""
    queue_share: float = Field(default=1, gt=0, le=1)
    """Part of the queue (`admission.max_queue_s`) that may be full when a list of this class is let in."""


class PrioritiesConfig(_Config):
    """The classes that a request chooses from with `priority`."""

    interactive: PriorityConfig = PriorityConfig(weight=8)
    """Somebody waits for the answer; the class of requests that name none."""
    bulk: PriorityConfig = PriorityConfig(weight=1, queue_share=0.5)
    """A job that may take its time."""

    @field_validator("interactive", "bulk", mode="before")
    @classmethod
    def _keeps_its_own_defaults(cls, value: object, info: ValidationInfo) -> object:
        """Who sets one key of a class keeps the other as documented for that class, not as for classes in general."""
        if isinstance(value, dict) and info.field_name:
            return cls.model_fields[info.field_name].default.model_dump() | value
        return value

    def of(self, priority: Priority) -> PriorityConfig:
        """The settings of a class."""
        return self.interactive if priority == "interactive" else self.bulk


class AdmissionConfig(_Config):
    """When a list is turned away (429) because of those that are here already."""

    max_queue_s: PositiveFloat = 5
    """Seconds of work that may be queued, at the measured speed of the replicas, when one more list is let in."""
    max_tokens_in_flight: PositiveInt = 16_000_000
    """Tokens that the lists in one ingress replica may have in all; a list beyond it can never be let in (413)."""


class ScatterConfig(_Config):
    """What happens to a shard whose replica dies or lags."""

    max_attempts: PositiveInt = 4
    """Replicas that a shard is sent to, one after the other, before its list fails."""
    retry_ratio: NonNegativeFloat = 0.1
    """Shards sent again, at most, for each shard sent: what breaks every replica must not be sent for ever."""
    retry_burst: PositiveInt = 1_000
    """Shards sent again, at most, at once: those of a replica that dies."""
    hedge_after: float | None = Field(default=3, gt=1)
    """The last shard of a list is sent to a second replica when it takes this many times as long as its siblings
    did; the first answer counts. None: never."""
    hedge_ratio: NonNegativeFloat = 0.05
    """Shards sent a second time, at most, for each shard sent."""
    reply_margin_s: NonNegativeFloat = 0.05
    """Where a partial answer is wanted, replicas answer so long before the deadline; at most a fifth of the time."""


class LimitsConfig(_Config):
    """What one request may ask for."""

    max_documents: PositiveInt = 10_000
    """Documents per list."""
    max_request_bytes: PositiveInt = 64 * 1024 * 1024
    """Size of a request's body."""
    timeout_s: PositiveFloat = 120
    """Seconds until a list that is not scored yet is given up (504). A request may ask for less, not for more."""

    def bounded_s(self, asked_s: float | None) -> float:
        """The seconds a list gets: what its request asks for, within the limit."""
        return self.timeout_s if asked_s is None else min(asked_s, self.timeout_s)


class RerankerConfig(_Config):
    """Everything that can be configured."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    long_documents: LongDocumentsConfig = LongDocumentsConfig()
    rules: RulesConfig = RulesConfig()
    planning: PlanningConfig = PlanningConfig()
    priorities: PrioritiesConfig = PrioritiesConfig()
    admission: AdmissionConfig = AdmissionConfig()
    scatter: ScatterConfig = ScatterConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _pair_fits_shard(self) -> Self:
        if self.model.max_pair_tokens > self.planning.max_shard_tokens:
            raise ValueError("model.max_pair_tokens must not exceed planning.max_shard_tokens")
        return self
