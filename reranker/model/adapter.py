"""Read a LoRA adapter's folder, and refuse one that the engine would apply in part or not at all.

vLLM applies what fits: an adapter of a smaller model fills a corner of each matrix, and weights of a missing layer are
dropped silently. The scores are plausible then, and wrong; so every name and shape is compared with the model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from reranker.config import EngineConfig
from reranker.errors import UnsupportedModelError
from reranker.model.checkpoint import Checkpoint

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's buffer sizes
_LAYER = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")
_HEAD = "base_model.model.score.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter."""

    folder: Path
    max_rank: int  # its largest rank, rounded up to one of vLLM's buffer sizes


def find_adapters(checkpoint: Checkpoint, config: EngineConfig, device: str) -> dict[str, Adapter]:
    """Find the configured adapters by name, "" where one is for every pair; UnsupportedModelError if one is unfit."""
    folders = config.lora_adapters if config.lora_adapter is None else {"": config.lora_adapter}
    if not folders:
        return {}
    settings = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    if device == "cpu" and (config.quantization or settings.get("quantization_config")):
        # Seen with INT8: vLLM's adapter layers ask for the weights that its CPU kernels have packed away.
        raise UnsupportedModelError(checkpoint.name, "on a CPU, an adapter needs a model without quantization")
    architecture = checkpoint.family.architecture
    adapters = {}
    for name, folder in folders.items():
        path = Path(folder).resolve()
        try:
            if not architecture.startswith("Qwen3For"):
                raise ValueError(f"an adapter needs a Qwen3 model, and this one is a {architecture}")  # noqa: TRY301
            rank = _read_rank(path)
            _check_fit(_read_shapes(path / "adapter_model.safetensors"), settings, architecture)
        except ValueError as error:
            key = f"engine.lora_adapters.{name}" if name else "engine.lora_adapter"
            raise UnsupportedModelError(checkpoint.name, f"{key} {folder!r}: {error}") from None
        adapters[name] = Adapter(path, max_rank=min(known for known in _RANKS if known >= rank))
    return adapters


def _read_rank(folder: Path) -> int:
    if not folder.is_dir():
        raise ValueError("it is no folder on this machine")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("it has no adapter_config.json") from None
    except ValueError:
        raise ValueError("its adapter_config.json is not JSON") from None
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise ValueError("its adapter_config.json is not that of a LoRA adapter")
    ranks: list[Any] = [config.get("r"), *(config.get("rank_pattern") or {}).values()]  # Any: JSON
    if not all(isinstance(rank, int) and 1 <= rank <= _RANKS[-1] for rank in ranks):
        raise ValueError(f"its rank (r) is {ranks[0] if len(ranks) == 1 else ranks}; known are 1 to {_RANKS[-1]}")
    return int(max(ranks))


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="numpy") as tensors:  # reads the header only, and needs no torch
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError("it has no adapter_model.safetensors") from None
    except SafetensorError:
        raise ValueError("its adapter_model.safetensors is not a safetensors file") from None


def _check_fit(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any], architecture: str) -> None:
    if not any(_LAYER.fullmatch(name) for name in shapes):
        raise ValueError("none of its tensors is a LoRA matrix of a Qwen3 layer")
    hidden, intermediate = int(settings["hidden_size"]), int(settings["intermediate_size"])
    heads = int(settings["num_attention_heads"])
    head_dim = int(settings.get("head_dim") or hidden // heads)
    queries, keys = heads * head_dim, int(settings.get("num_key_value_heads") or heads) * head_dim
    sizes = {  # (inputs, outputs)
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    for name, shape in shapes.items():
        if name == _HEAD and architecture == "Qwen3ForSequenceClassification" and shape == (1, hidden):
            continue  # a head of its own, in place of the checkpoint's
        matrix = _LAYER.fullmatch(name)
        if matrix is None or int(matrix[1]) >= int(settings["num_hidden_layers"]) or matrix[2] not in sizes:
            raise ValueError(f"its tensor {name} has no place in this model")
        inputs, outputs = sizes[matrix[2]]
        if len(shape) != 2 or (shape[1] != inputs if matrix[3] == "A" else shape[0] != outputs):
            raise ValueError(f"its tensor {name} has shape {list(shape)}, which is that of another model")
