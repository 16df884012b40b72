"""Settings of what is scored and how: the model and its instructions, engines, long documents, rules."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StrictInt, model_validator

from reranker.errors import UnknownInstructionError
from reranker.types import Aggregate, LongDocuments, TruncationSide

AdapterName = Annotated[str, Field(pattern=r"^[\w.:/@+-]{1,100}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
"""Of one model of several: a part of its deployment's name, and a metric's label."""

CLIENTS_ORDER = "none"
"""As `with` of a shadow: nothing ranks, and the documents stay in the order in which the client sent them."""


class Group(BaseModel):
    """A group of settings."""

    # Without the input in its errors: it may be an address with a password, and errors end in logs.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class ModelConfig(Group):
    """Which model scores, and how its prompts are made."""

    name: str = Field(default="demo", min_length=1)
    """"demo" (bundled), a local folder, or a hub id such as Qwen/Qwen3-Reranker-0.6B."""
    revision: str | None = None
    """Branch, tag or commit on the hub. None: the default branch."""
    family: str | None = None
    """How the model is prompted and scored ([models](models.md)), where its own files do not say. None: as they say."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """"auto": what the checkpoint says; for the demo model, which is tiny, float32 on a CPU and float16 on a GPU."""
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
            UnknownInstructionError: The name is not configured.
        """
        instruction = asked or self.instruction
        if not re.fullmatch(r"@[\w-]+", instruction):
            return instruction
        try:
            return self.instructions[instruction[1:]]
        except KeyError:
            raise UnknownInstructionError(tuple(f"@{name}" for name in self.instructions)) from None


class LongDocumentsConfig(Group):
    """What happens to a document too long for one prompt. A request may choose otherwise."""

    mode: LongDocuments = "truncate"
    """"truncate": cut it, and say so. "windows": score all of it, in overlapping windows."""
    truncation_side: TruncationSide = "end"
    """Which end is cut off: "end" or "start"."""
    aggregate: Aggregate = "max"
    """The document's score from its windows': "max" (the best passage counts), "mean" or "first"."""
    window_tokens: PositiveInt | None = None
    """Document tokens per window. None: as many as the prompt has room for."""
    overlap_tokens: int = Field(default=128, ge=0)
    """Tokens that neighbouring windows share, so that no passage is torn in two. Less than half a window."""
    max_windows: PositiveInt = 256
    """Windows per document; what lies beyond is cut off, and said so."""

    @model_validator(mode="after")
    def _overlap_is_less_than_half_a_window(self) -> Self:
        if self.window_tokens is not None and self.overlap_tokens * 2 >= self.window_tokens:
            raise ValueError(
                f"overlap_tokens: an overlap of {self.overlap_tokens} tokens is not less than half a window "
                f"({self.window_tokens}). Lower it, or raise window_tokens"
            )
        return self


@cache
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


class ExclusionRule(Group):
    """Takes documents out of every answer: those that match its metadata and its pattern."""

    name: str = Field(min_length=1)
    """Named in the answer for each document it excluded."""
    metadata: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Fields of a document sent as an object, and the values that match; a dotted name reaches into objects."""
    pattern: str | None = None
    """Regular expression to be found in the document's text, in [RE2's syntax](https://github.com/google/re2/wiki/Syntax):
    no look-around and no back-references; `\\d`, `\\w` and `\\b` are ASCII's, `\\pL` is any letter."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.metadata and self.pattern is None:
            raise ValueError("a rule needs metadata or a pattern; without one it would exclude every document")
        if self.pattern is not None:
            try:
                self.regex()
            except re2.error as error:
                raise ValueError(f"pattern is not a regular expression of RE2's: {error.args[0].decode()}") from None
        return self

    def regex(self) -> Any:  # Any: re2 has no types
        """Compile the pattern, for bytes of UTF-8. RE2 takes linear time, whatever the pattern and the text."""
        return _compiled(self.pattern or "")


class EvidenceConfig(Group):
    """How far a request's `relevant_spans` goes: sentences are scored as documents are ([evidence](evidence.md))."""

    max_documents: PositiveInt = 100
    """So many of the documents that are returned, the best ones, have spans."""
    max_sentences: PositiveInt = 64
    """Sentences of one document; of more, neighbours are joined."""
    threshold: float = Field(default=0.1, ge=0, le=1)
    """Spans with a lower relevance score are left out. A request may choose otherwise."""


class RulesConfig(Group):
    """What happens to scored documents. Nothing is dropped silently: the answer lists what a rule excluded."""

    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Leave out documents with a lower relevance score. A request may choose otherwise."""
    exclude: tuple[ExclusionRule, ...] = ()
    """Exclusion rules, tried in order; the first that matches is named."""
    complete: bool = False
    """Answer with every document, for clients that count on it: what rules, threshold or `top_n` leave out comes last,
    with its score, and is listed elsewhere. A request may choose otherwise; a key may have it too ([keys](keys.md))."""


class SimulatedConfig(Group):
    """The imagined device of the simulated engine. The default is of the order of a 0.6B model on an L4."""

    tokens_per_s: PositiveFloat = 40_000
    """Tokens it computes in a second."""
    step_s: float = Field(default=0.005, ge=0)
    """Seconds every step takes besides."""
    host_s_per_pair: float = Field(default=0.00007, ge=0)
    """Seconds of the engine's thread for a pair, which it spends while the device computes the batch before: a step
    takes the longer of the two. Default: as `make bench-loop` measures vLLM's scheduler with our loop."""
    jitter: float = Field(default=0.05, ge=0)
    """Spread of a step's duration: the standard deviation of its logarithm."""
    failure_rate: float = Field(default=0, ge=0, le=1)
    """Probability that a step fails, and the engine with it."""
    seed: int | None = None
    """Of jitter and failures. None: another one each time."""
    score_seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the scores: with another one, it is another model, `simulated-1`."""


class EngineConfig(Group):
    """How a replica holds its vLLM engine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto": one GPU per replica if the cluster has any when the application is built, else the CPU. On one machine
    the vLLM build that is installed decides."""
    simulated: SimulatedConfig | None = None
    """Simulate an engine instead of holding one: meaningless scores in a realistic time. None: vLLM."""
    max_batch_tokens: PositiveInt | None = None
    """Tokens the engine computes in one step, at most. None: [by the card](#settings-by-card)."""
    target_step_s: PositiveFloat | None = 0.05
    """Seconds of work that a newcomer finds begun, at most: one step; on a GPU two, each half as long; on a CPU one,
    twice as long beside a very long document. Steps cost, so none is so short that more than a twentieth of the
    throughput is lost. None: full batches."""
    max_batch_pairs: PositiveInt | None = None
    """Pairs the engine computes in one step, at most. None: by the card."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the GPU's memory vLLM may take. None: by the card. On a CPU it has no meaning."""
    cuda_graph_tokens: tuple[PositiveInt, ...] | None = None
    """Sizes of small batches, in tokens, whose kernels are launched as one CUDA graph: below the largest the launches
    would take longer than the arithmetic. None: by the card. Empty: no graphs. On a CPU they have no meaning."""
    cpu_kv_cache_gib: PositiveInt = 1
    """Memory for the prefix cache on a CPU; vLLM's own default takes a large part of the machine."""
    cpu_threads: PositiveInt | None = None
    """Compute threads of one replica on a CPU. None: as many as `cpus`; on one machine (`reranker serve`, `batch`,
    `--local`) all its cores, shared by the replicas that there may be."""
    cpus: PositiveFloat = 1
    """Cores Ray reserves for one replica."""
    scheduling: Literal["fair", "fcfs"] = "fair"
    """"fair": lists take turns, in proportion to their weights; "fcfs": first come, first served, to compare with."""
    startup_check: bool = True
    """Score a few known pairs before a replica takes traffic, and refuse a model that gets them wrong."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share one model; a replica then takes as many. For models that do not fit one."""
    quantization: str | None = None
    """vLLM's name of a quantization ("fp8_per_channel", "awq", "gptq", …). None: what the checkpoint's own
    configuration says."""
    lora_adapter: str | None = None
    """A folder with a LoRA adapter as PEFT saves it, for every pair. For Qwen3 models."""
    lora_adapters: dict[AdapterName, str] = Field(default_factory=dict)
    """Such folders by name, instead of `lora_adapter`: a request chooses one with its `model`. All share one engine."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)  # Any: vLLM's arguments have every type
    """Any other vLLM engine argument, by its name; it wins over ours."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.device == "cpu" and self.tensor_parallel_size > 1:
            raise ValueError("tensor_parallel_size needs GPUs; device is cpu")
        if self.lora_adapter is not None and self.lora_adapters:
            raise ValueError(
                "lora_adapter is for every pair, lora_adapters are for requests to choose; give one of them"
            )
        return self


class NamedModelConfig(ModelConfig):
    """One of several models, by the name that requests give as `model`: the keys of `model`, and its own `engine`."""

    engine: EngineConfig = EngineConfig()
    """The keys of `engine`, for this model's replicas."""


class KeepAboveConfig(Group):
    """All documents with so high a score."""

    above: float = Field(ge=0, le=1)
    """The relevance score by the first model that a document must have."""


class CascadeConfig(Group):
    """One model ranks all documents of a list, and another the best of them again."""

    first: ModelName
    """The model that ranks all of them: the quick one."""
    then: ModelName
    """The model that ranks those that are kept: the right one."""
    keep: Annotated[StrictInt, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | KeepAboveConfig = 50
    """How many the second model gets: a number; a share, such as 0.1; or `{above: 0.2}`, all with a higher score."""

    @model_validator(mode="after")
    def _has_two(self) -> Self:
        if self.first == self.then:
            raise ValueError("then: is the same model as first. Name another")
        return self


class SampleConfig(Group):
    """Lists that a shadow has ranked, with their texts, in a file: for people to read what differs."""

    path: Path
    """Of the file, on the ingress's machine: JSON lines **with queries and documents**. Replicas may share it."""
    share: float = Field(default=0.01, gt=0, le=1)
    """Share of the shadow's lists that are written."""
    max_bytes: PositiveInt = 64 * 1024 * 1024
    """Size of the file beyond which nothing more is written. Move it away, and a new one begins."""


class ShadowConfig(Group):
    """A share of the lists that a model has answered is ranked by another one too, and the two are compared."""

    of: AdapterName | None = None
    """Whose answers: a model, an adapter or a cascade. None: the default model."""
    other: AdapterName | None = Field(default=None, alias="with")
    """Who ranks them too: a model, an adapter or a cascade; "none": the client's own order. None: the same model."""
    instruction: str | None = Field(default=None, min_length=1)
    """In place of the requests' own instruction: a text, or a configured one ("@medical"). None: theirs."""
    share: float = Field(default=0.05, gt=0, le=1)
    """Share of the lists, by chance; of those that no live work would have to wait for."""
    sample: SampleConfig | None = None
    """Write some of them to a file, texts included. None: nothing is written."""

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.other in (None, self.of) and self.instruction is None:
            raise ValueError("with: is the model itself, under the same instruction. Name another, or an instruction")
        if self.other == CLIENTS_ORDER and self.instruction is not None:
            raise ValueError("instruction: is given, but nothing ranks with it (with: none). Remove one of them")
        return self
