"""The small files of a checkpoint, read; and refused with a sentence where they do not have the form they should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Required

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from reranker.errors import UnsupportedModelError

_STRICT = ConfigDict(strict=True, extra="allow")


@with_config(_STRICT)
class _Config(TypedDict, total=False):
    architectures: list[str] | None
    model_type: str | None
    id2label: dict[str, str] | None
    num_labels: int | None
    max_position_embeddings: int | None
    num_hidden_layers: int | None
    pad_token_id: int | None
    type_vocab_size: int | None
    vocab_size: int | None
    tie_word_embeddings: bool | None
    quantization_config: dict[str, Any] | None
    text_config: _Config | None  # of the part that reads text, in a model of several


@with_config(_STRICT)
class _AddedToken(TypedDict):
    id: int
    content: str
    special: bool


@with_config(_STRICT)
class _Tokenizer(TypedDict, total=False):
    model: Required[dict[str, Any]]
    added_tokens: list[_AddedToken] | None


@with_config(_STRICT)
class _TokenizerConfig(TypedDict, total=False):
    chat_template: str | list[dict[str, str]] | None
    model_max_length: int | float | None
    tokenizer_class: str | None


@with_config(_STRICT)
class _Module(TypedDict):
    path: str
    type: str


@with_config(_STRICT)
class _SentenceBert(TypedDict, total=False):
    max_seq_length: int | None


@with_config(_STRICT)
class _SentenceTransformers(TypedDict, total=False):
    prompts: dict[str, str | None] | None
    default_prompt_name: str | None


@with_config(_STRICT)
class _Index(TypedDict):
    weight_map: dict[str, str]


_FORMS: Mapping[str, Any] = {
    "config.json": _Config,
    "tokenizer.json": _Tokenizer,
    "tokenizer_config.json": _TokenizerConfig,
    "modules.json": list[_Module],
    "sentence_bert_config.json": _SentenceBert,
    "config_sentence_transformers.json": _SentenceTransformers,
    "model.safetensors.index.json": _Index,
}


@cache
def _form(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_FORMS.get(name, dict[str, Any]))


def read_json(name: str, path: Path) -> Any:  # Any: JSON
    """Read a file of the model `name`; None: it is not there."""
    try:
        return _form(path.name).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][:2]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise UnsupportedModelError(
            name, f"its {path.name} is not of its form ({said[:1].lower() + said[1:]})"
        ) from None
    except ValueError:
        raise UnsupportedModelError(name, f"its {path.name} is not JSON") from None


def read_config(name: str, folder: Path) -> Any:  # Any: JSON
    """Read config.json, with what it says of the part that reads text, in a model of several."""
    settings = read_json(name, folder / "config.json")
    return settings and {**(settings.get("text_config") or {}), **settings}


def read_text(name: str, path: Path) -> str | None:
    """The same, of a text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UnsupportedModelError(name, f"its {path.name} is not UTF-8") from None
