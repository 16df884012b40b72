"""What an engine has by default on each class of cards, and whether a model fits. Data: nothing here asks a device.

No figure was measured on a GPU. Sources: vLLM 0.32's own defaults by memory and name (`get_batch_defaults` in its
arg_utils.py: 16,384 tokens, but 8,192 on an A100, where more is slower), and at which size the launches of a batch's
kernels, some 5 ms, would take longer than its arithmetic. `make gpu-proof` tries the neighbours of each on a real card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reranker.config import EngineConfig
from reranker.engine.device import Gpu
from reranker.errors import DeviceError
from reranker.model.checkpoint import Checkpoint
from reranker.model.files import read_config

FP8_CAPABILITY = (8, 9)
"""From here on a card computes in FP8. Older ones only keep weights in it, and are slower with it than without."""
_GRAPHS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096)
_LEAST_BATCH = 2_048
# Estimates: CUDA's context alone; and with graphs and the values between two layers of a batch.
_CONTEXT_GIB, _WORKSPACE_GIB = 0.5, 1.5


class Settings(NamedTuple):
    """What a card decides, where the configuration does not; `EngineConfig` has the same names."""

    max_batch_tokens: int
    max_batch_pairs: int
    gpu_memory_utilization: float
    cuda_graph_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CardClass:
    """What an engine has on such cards where `engine` says nothing."""

    name: str
    pattern: str
    """Found in the names of such cards, as NVIDIA's driver gives them; "" fits all."""
    capability: tuple[int, int]
    """The least compute capability."""
    gib: float
    """The least memory."""
    settings: Settings


ON_A_CPU = Settings(16_384, 256, 0.9, ())
CLASSES = (
    CardClass("B200, B300", "", (10, 0), 140, Settings(16_384, 512, 0.9, _GRAPHS)),
    CardClass("H100, H200", r"H100|H200|GH200", (9, 0), 70, Settings(16_384, 512, 0.9, _GRAPHS)),
    CardClass("A100, H20, L40S, and others from 40 GB", "", (8, 0), 38, Settings(8_192, 512, 0.9, _GRAPHS[:12])),
    CardClass("L4, A10G, RTX 4090, and others from 20 GB", "", (8, 0), 20, Settings(8_192, 512, 0.9, _GRAPHS[:8])),
    CardClass("T4, and smaller ones", "", (0, 0), 0, Settings(4_096, 256, 0.9, _GRAPHS[:8])),
)
"""The first that fits a card is its class."""


CARDS = {
    "T4": Gpu("Tesla T4", (7, 5), 14.6),
    "A10G": Gpu("NVIDIA A10G", (8, 6), 22.1),
    "L4": Gpu("NVIDIA L4", (8, 9), 22.1),
    "L40S": Gpu("NVIDIA L40S", (8, 9), 44.4),
    "A100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 79.3),
    "H100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 79.6),
    "H200": Gpu("NVIDIA H200", (9, 0), 140.0),
    "B200": Gpu("NVIDIA B200", (10, 0), 178.4),
}
"""Some that there are, to look at without having one."""


class ModelSize(NamedTuple):
    """What a model takes of a card's memory, estimated from the shapes in its config.json."""

    weights_gib: float
    kv_bytes: int
    """Of keys and values, for each token."""


def smallest(gpus: Sequence[Gpu]) -> Gpu | None:
    """The one that decides: a model over several has as much on each."""
    return min(gpus, key=lambda one: one.memory_gib, default=None)


def class_of(gpu: Gpu) -> CardClass:
    return next(
        one
        for one in CLASSES
        if gpu.capability >= one.capability and gpu.memory_gib >= one.gib and re.search(one.pattern, gpu.name)
    )


def settings_for(config: EngineConfig, gpu: Gpu | None, size: ModelSize | None = None) -> Settings:
    """What the configuration says; where it says nothing, what suits the card (None: a CPU).

    With a model's size, the batches that are under way together leave half of the prefix cache for heads.
    """
    chosen = ON_A_CPU if gpu is None else class_of(gpu).settings
    said = {name: value for name in chosen._fields if (value := getattr(config, name)) is not None}
    if gpu is not None and size is not None and "max_batch_tokens" not in said:
        used = said.get("gpu_memory_utilization", chosen.gpu_memory_utilization)
        most = kv_tokens(size, gpu, used, config.tensor_parallel_size) // 4
        while chosen.max_batch_tokens > max(most, _LEAST_BATCH):
            chosen = chosen._replace(max_batch_tokens=chosen.max_batch_tokens // 2)
    return chosen._replace(**said)


def size_of(checkpoint: Checkpoint, quantization: str | None = None) -> ModelSize | None:
    """Estimate a model's size on a GPU; None: its config.json does not have the usual names."""
    shape = read_config(checkpoint.name, checkpoint.folder)
    return size_of_shape(shape, checkpoint.dtype_on("cuda"), quantization)


def size_of_shape(shape: Mapping[str, Any], dtype: str, quantization: str | None = None) -> ModelSize | None:
    """From a config.json's content. With "auto" vLLM loads a pooling model in 16 bits, whatever the file has."""
    try:
        width, layers, inner = (shape[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads, vocabulary = shape["num_attention_heads"], shape["vocab_size"]
    except KeyError:
        return None
    kv_heads, head_dim = shape.get("num_key_value_heads") or heads, shape.get("head_dim") or width // heads
    number_bytes = 4 if dtype == "float32" else 2
    matrices = layers * (2 * width * head_dim * (heads + kv_heads) + 3 * width * inner)
    embeddings = vocabulary * width  # an untied head is cut to the answers' rows when vLLM loads it
    how = quantization or str((shape.get("quantization_config") or {}).get("quant_method") or "")
    matrix_bytes = number_bytes if not how else 0.55 if re.search("awq|gptq|4", how) else 1
    weights = matrices * matrix_bytes + embeddings * number_bytes
    return ModelSize(weights / 2**30, 2 * layers * kv_heads * head_dim * number_bytes)


def kv_tokens(size: ModelSize, gpu: Gpu, used: float, gpus: int = 1) -> int:
    """How many tokens the prefix cache would hold; 0 or less: the model does not fit."""
    room_gib = gpus * (used * gpu.memory_gib - _WORKSPACE_GIB) - size.weights_gib
    return int(room_gib * 2**30 / size.kv_bytes)


def gpus_needed(size: ModelSize, gpu: Gpu, used: float = 0.9) -> int | None:
    """How many such cards hold the model with room to work in: 1, 2, 4 or 8; None: not even 8 do."""
    return next((count for count in (1, 2, 4, 8) if kv_tokens(size, gpu, used, count) >= 4 * _LEAST_BATCH), None)


def require_room(config: EngineConfig, gpu: Gpu, size: ModelSize) -> None:
    """Raise DeviceError if the model's weights alone do not fit. It is an estimate: what may fit is tried."""
    used, gpus = settings_for(config, gpu).gpu_memory_utilization, config.tensor_parallel_size
    if size.weights_gib < gpus * (used * gpu.memory_gib - _CONTEXT_GIB):
        return
    has = f"{gpus} x {gpu.name} have" if gpus > 1 else f"{gpu.name} has"
    said = f"the model's weights take about {size.weights_gib:.0f} GiB, and {has} {gpus * gpu.memory_gib:.0f}"
    needed = gpus_needed(size, gpu, used)
    ways = [f"engine.tensor_parallel_size: {needed} would spread it"] if needed else []
    if gpu.capability >= FP8_CAPABILITY and not config.quantization:
        ways.append("engine.quantization: fp8_per_channel halves them")
    raise DeviceError(said, ", ".join([*ways, "a smaller model or a larger card fits"]))


def described(config: EngineConfig, gpu: Gpu | None, size: ModelSize | None) -> Iterator[str]:
    """Say what an engine gets on a card (None: a CPU) and why, in lines."""
    settings = settings_for(config, gpu, size)
    if gpu is None:
        for name in ("max_batch_tokens", "max_batch_pairs"):
            yield f"engine.{name}: {getattr(settings, name)} ({_by(config, name)})"
        return
    yield f"{gpu.name}, {gpu.memory_gib:.0f} GiB: settings of {class_of(gpu).name}"
    for name, value in settings._asdict().items():
        yield f"engine.{name}: {json.dumps(value)} ({_by(config, name)})"
    if size is not None:
        used, gpus = settings_for(config, gpu).gpu_memory_utilization, config.tensor_parallel_size
        room = max(0, kv_tokens(size, gpu, used, gpus))
        yield f"weights about {size.weights_gib:.1f} GiB, prefix cache about {room:,} tokens; estimated"
        if gpus > (needed := gpus_needed(size, gpu, used) or gpus):
            said = f"it fits {needed}: a replica for each GPU computes more than one over several"
            yield f"engine.tensor_parallel_size is {gpus}, and {said}"
    if (config.quantization or "").startswith("fp8") and gpu.capability < FP8_CAPABILITY:
        yield f"engine.quantization: {config.quantization} saves memory and costs time: this card has no FP8 arithmetic"
    elif gpu.capability >= FP8_CAPABILITY and config.quantization is None:
        yield "this card computes in FP8: engine.quantization: fp8_per_channel, once `reranker eval` says what it costs"


def _by(config: EngineConfig, name: str) -> str:
    return "by the device" if getattr(config, name) is None else "configured"
