"""Documents and queries as clients send them, strings or objects, become text.

An object is its `text`; with `rank_fields`, those fields of it as YAML; without either, all of it as YAML, as Cohere
advises for structured data. vLLM's `{"content": [{"type": "text", …}]}` is its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from reranker.dialects.options import Item
from reranker.errors import InvalidRequestError

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where PyYAML was built with it
_NO_TEXT = "this model reads text only"


def texts_of(items: Sequence[Item], where: str, rank_fields: Sequence[str] = ()) -> tuple[str, ...]:
    """Give the text of each document.

    Args:
        items: As they came.
        where: Name of the field they came in.
        rank_fields: Fields of objects that count, in this order; empty: see above.

    Raises:
        InvalidRequestError: An object without a text; named by its place.
    """
    return tuple(
        item if isinstance(item, str) else _text_of(item, f"{where}[{index}]", rank_fields)
        for index, item in enumerate(items)
    )


def query_of(item: Item, where: str) -> str:
    """Give the text of a query.

    Raises:
        InvalidRequestError: It has none.
    """
    if not (isinstance(item, str) or "text" in item or _is_content(item.get("content"))):
        raise InvalidRequestError(where, "must be a string or an object with a string `text`")
    text = item if isinstance(item, str) else _text_of(item, where, ())
    if not text.strip():
        raise InvalidRequestError(where, "must not be empty")
    return text


def _text_of(item: dict[str, Any], where: str, rank_fields: Sequence[str]) -> str:
    if rank_fields:
        chosen = {name: item[name] for name in rank_fields if item.get(name) is not None}
        if not chosen:
            raise InvalidRequestError(where, "has none of the fields that rank_fields names")
        if list(chosen) != ["text"]:
            return _as_yaml(chosen)
    if "text" in item:
        text = item["text"]
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}.text", "must be a string")
        return text
    if _is_content(item.get("content")):
        return _joined(item["content"], where)
    if not item:
        raise InvalidRequestError(where, "must not be an empty object; give it a text")
    if item.keys() <= {"image", "image_url"}:
        raise InvalidRequestError(where, _NO_TEXT)
    return _as_yaml(item)


def metadata_of(items: Sequence[Item]) -> tuple[Mapping[str, object], ...]:
    """Give what came with each document besides its text; empty when all are strings."""
    if all(isinstance(item, str) for item in items):
        return ()
    return tuple(
        {} if isinstance(item, str) else {key: value for key, value in item.items() if key != "text"} for item in items
    )


def echoed(item: Item, text: str) -> dict[str, Any]:
    """Give back a document as an object with its `text`: its own, or what it was read as."""
    return {"text": text} if isinstance(item, str) else {"text": text} | item


def _is_content(content: object) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(p, dict) and "type" in p for p in content)


def _joined(parts: Sequence[Mapping[str, Any]], where: str) -> str:
    for number, part in enumerate(parts):
        if not (part["type"] == "text" and isinstance(part.get("text"), str)):
            raise InvalidRequestError(f"{where}.content[{number}]", _NO_TEXT)
    return "\n".join(part["text"] for part in parts)


def _as_yaml(fields: Mapping[str, Any]) -> str:
    dumped: str = yaml.dump(dict(fields), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=2**30)
    return dumped
