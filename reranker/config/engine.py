"""Settings of a replica's engine, real or simulated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from reranker.config.base import Group

AdapterName = Annotated[str, Field(pattern=r"^[\w.:/@+-]{1,100}$")]


class SimulatedConfig(Group):
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


class EngineConfig(Group):
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
    lora_adapters: dict[AdapterName, str] = Field(default_factory=dict)
    """Such folders by name: a request whose `model` is one of the names is scored with that adapter, any other without.
    All share one engine. Instead of `lora_adapter`."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # Any: vLLM's arguments have every type
    """Any other vLLM engine argument, by its name; it wins over ours."""

    @model_validator(mode="after")
    def _cpu_has_no_gpus_to_share(self) -> Self:
        if self.device == "cpu" and self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size needs GPUs; device is cpu")
        return self

    @model_validator(mode="after")
    def _adapters_are_chosen_or_not(self) -> Self:
        if self.lora_adapter is not None and self.lora_adapters:
            raise ValueError(
                "lora_adapter is for every pair, lora_adapters are for requests to choose; give one of them"
            )
        return self
