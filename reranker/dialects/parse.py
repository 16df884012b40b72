"""Read a request's body: as JSON within limits, in the dialect that its path or its fields say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import orjson
from pydantic import TypeAdapter, ValidationError

from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS
from reranker.dialects.base import TIMEOUT_HEADER, Dialect, RankingCall
from reranker.dialects.fields import Seconds, ignored_fields, validate
from reranker.errors import InvalidRequestError, RequestTooLargeError

_SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
_LISTS = tuple(dict.fromkeys(name for one in DIALECTS for name in one.lists))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))
_CONTAINERS = (dict, list)
_QUOTE = ord('"')
_PIECE_BYTES = 2**20
_STEP_BYTES = 2**17
"""Are looked through in 0.4 ms: other threads get their turns between."""
_VALUE_BYTES, _CONTAINER_BYTES = 80, 250
"""Of memory, that a value takes at least, and a list or object besides."""
_MANY_VALUES = 50_000
"""Are counted once more, without those in texts."""
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CONTAINER = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])
_FIELDS = frozenset(name for one in DIALECTS for name in one.body.model_fields)


def parse(
    body: bytes | bytearray, dialect: Dialect | None, limits: LimitsConfig, timeout_header: str | None = None
) -> RankingCall:
    """Read a request's body, which comes decompressed. Without a dialect, its fields say which. No error quotes it."""
    fields = load(body, limits)
    if not isinstance(fields, dict):
        raise InvalidRequestError("", "the body must be a JSON object")
    for name in _LISTS:
        listed = fields.get(name)
        if isinstance(listed, list) and len(listed) > limits.max_documents:
            raise RequestTooLargeError(name, len(listed), limits.max_documents, "entries")
    if dialect is None:
        dialect = next((one for one in DIALECTS if any(name in fields for name in one.chosen_by)), DIALECTS[0])
    validated = validate(dialect.body, fields)
    timeout_s = validated.timeout_s
    if timeout_header is not None:
        try:
            in_header = _SECONDS.validate_strings(timeout_header)
        except ValidationError:
            raise InvalidRequestError(TIMEOUT_HEADER, "must be a number of seconds, at least 0.001") from None
        timeout_s = in_header if timeout_s is None else min(in_header, timeout_s)
    lists = tuple(replace(one, timeout_s=timeout_s) for one in dialect.read(validated))
    return RankingCall(dialect, validated, lists, ignored_fields(fields))


def load(body: bytes | bytearray, limits: LimitsConfig) -> Any:  # Any: JSON
    """Parse JSON within limits: 64 MB of "[],[]," would become gigabytes of lists. None: a large one is no object."""
    values, _ = _counted(_pieces(body))
    if values > limits.max_json_values:  # those in texts too, but it takes no time
        values, _ = _counted(_structure(body))
        if values > limits.max_json_values:
            raise RequestTooLargeError("body", values, limits.max_json_values, "JSON values")
    too_deep = InvalidRequestError("", f"the body's JSON is nested more than {limits.max_nesting} deep")
    try:
        loaded = orjson.loads(body) if len(body) <= _PIECE_BYTES else _load_in_pieces(body, limits)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:  # beyond 1,024, orjson's own
            raise too_deep from None
        where = f", at character {error.pos}" if len(body) <= _PIECE_BYTES else ""
        raise InvalidRequestError("", f"the body is not JSON: {error.msg}{where}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError("", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise too_deep from None
    level = [loaded] if isinstance(loaded, _CONTAINERS) else []
    for _ in range(limits.max_nesting):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, _CONTAINERS)
        ]
    if level:
        raise too_deep
    return loaded


def _load_in_pieces(body: bytes | bytearray, limits: LimitsConfig) -> Any:  # Any: JSON
    """Parse a large body, letting other threads have their turns: in one go, 60 MB hold the interpreter for 0.1 s."""
    try:
        fields = _OBJECT.decode(body)
    except msgspec.ValidationError:
        return None  # no object
    return {name: _load_value(raw, name if name in _FIELDS else "body", limits, 1) for name, raw in fields.items()}


def _load_value(raw: msgspec.Raw, where: str, limits: LimitsConfig, depth: int) -> Any:  # Any: JSON
    text = memoryview(raw)
    is_text = text[0] == _QUOTE
    if is_text and len(text) > limits.max_text_bytes:
        raise RequestTooLargeError(where, len(text), limits.max_text_bytes, "bytes of text")
    if is_text or len(text) <= _PIECE_BYTES or text[0] not in b"{[":
        return orjson.loads(text)
    if depth >= limits.max_nesting:
        raise RecursionError
    values = _CONTAINER.decode(text)
    if isinstance(values, dict):
        return {name: _load_value(one, where, limits, depth + 1) for name, one in values.items()}
    return [
        orjson.loads(memoryview(one))
        if len(one) <= _PIECE_BYTES
        else _load_value(one, f"{where}[{index}]" if depth == 1 else where, limits, depth + 1)
        for index, one in enumerate(values)
    ]


def _structure(body: bytes | bytearray) -> Iterator[bytes]:
    """Give a body without what is between quotes, step by step."""
    start, in_text = 0, False
    while start < len(body):
        piece = body[start : start + _STEP_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # not between a backslash and what it escapes
            piece = body[start : start + len(piece) + 1]
        start += len(piece)
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
        parts = piece.split(b'"')
        yield b"".join(parts[in_text::2])
        in_text ^= len(parts) % 2 == 0


def parsed_bytes(body: bytes | bytearray, limits: LimitsConfig) -> int:
    """Estimate what a body's values take of memory: a text with one rare character takes four bytes for each.

    Of more values than there may be none are made.
    """
    wide = any(not piece.isascii() or b"\\u" in piece for piece in _pieces(body))
    values, containers = _counted(_pieces(body))
    if values > _MANY_VALUES:
        values, containers = _counted(_structure(body))
    made = values <= limits.max_json_values
    return len(body) * (4 if wide else 1) + made * (values * _VALUE_BYTES + containers * _CONTAINER_BYTES)


def _pieces(body: bytes | bytearray) -> Iterator[bytes | bytearray]:
    for start in range(0, len(body), _STEP_BYTES):
        yield body[start : start + _STEP_BYTES]


def _counted(pieces: Iterable[bytes | bytearray]) -> tuple[int, int]:
    """Count values, and lists and objects among them."""
    commas = containers = 0
    for piece in pieces:
        commas += piece.count(b",")
        containers += piece.count(b"[") + piece.count(b"{")
    return commas + containers, containers
