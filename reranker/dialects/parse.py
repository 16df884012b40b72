"""Read a request's body: as JSON within limits, in the dialect that its path or its fields say."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Any

import msgspec
import orjson
from pydantic import TypeAdapter, ValidationError

from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS
from reranker.dialects.base import Dialect, RankingCall
from reranker.dialects.fields import Seconds, ignored_fields, validate
from reranker.errors import InvalidRequestError, RequestTooLargeError, UnknownCharsetError
from reranker.record import RequestRecord

_SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
_LISTS = frozenset(name for one in DIALECTS for name in one.lists)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))
_CONTAINERS = (dict, list)
_QUOTE, _BRACKET, _BRACE = b'"[{'
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
_CHOOSING = frozenset(name for one in DIALECTS for name in one.chosen_by)
_BACKSLASH = ord("\\")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_PAIR = re.compile(_HIGH + _LOW)
_LONE = re.compile(rb"%b(?!%b)|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})%b" % (_HIGH, _LOW, _LOW))
_ENCODED = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""A surrogate as if it were a character: from programs that write UTF-16's halves one by one."""
_BOM = codecs.BOM_UTF8
_CHARSETS = frozenset(
    (
        *("latin_1", "iso8859_2", "iso8859_5", "iso8859_7", "iso8859_9", "iso8859_15", "koi8_r"),
        *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1257"),
        *("gbk", "gb2312", "gb18030", "big5", "big5hkscs", "shift_jis", "cp932", "euc_jp", "iso2022_jp"),
        *("euc_kr", "cp949"),
    )
)
"""That a body is read in where its Content-Type names one and it is not UTF-8. They hold ASCII, as JSON needs it."""
_NOT_JSON = (orjson.JSONDecodeError, msgspec.DecodeError, UnicodeDecodeError)


def parse(
    body: bytes | bytearray,
    dialect: Dialect | None,
    limits: LimitsConfig,
    timeout: tuple[str, str] | None = None,
    charset: str = "",
    record: RequestRecord | None = None,
    model: str | None = None,
    complete: bool | None = None,
) -> RankingCall:
    """Read a request's body, which comes decompressed. Without a dialect, its fields say which. No error quotes it.

    `timeout`: a header with seconds, its name and what it says. `charset`: that the Content-Type names. `model` and
    `complete` are what the URL says, which counts where the body does not say it. The record is told of the dialect
    before anything can be wrong with its fields.
    """
    fields = load(body, limits, charset)
    if not isinstance(fields, dict):
        raise InvalidRequestError("", "the body must be a JSON object")
    dialect = dialect or _dialect_of(fields)
    if record is not None:
        record.dialect = dialect.name
    fields = dialect.unfold(fields)
    for name in _LISTS & fields.keys():
        listed = fields[name]
        if isinstance(listed, dict):
            listed = listed.get("content")
        if isinstance(listed, list) and len(listed) > limits.max_documents:
            raise RequestTooLargeError(name, len(listed), limits.max_documents, "entries")
    validated = validate(dialect.body, fields)
    timeout_s = validated.timeout_s
    if timeout is not None:
        try:
            in_header = _SECONDS.validate_strings(timeout[1])
        except ValidationError:
            raise InvalidRequestError(timeout[0], "must be a number of seconds, at least 0.001") from None
        timeout_s = in_header if timeout_s is None else min(in_header, timeout_s)
    if validated.complete is not None:
        complete = validated.complete
    lists = tuple(
        replace(one, timeout_s=timeout_s, complete=dialect.complete or complete, model=one.model or model)
        for one in dialect.read(validated)
    )
    return RankingCall(dialect, validated, lists, ignored_fields(fields, dialect.body))


def _dialect_of(fields: Mapping[str, Any]) -> Dialect:
    for one in DIALECTS if fields.keys() & _CHOOSING else ():
        if any(name in fields and isinstance(fields[name], one.chosen_as) for name in one.chosen_by):
            return one
    return DIALECTS[0]


def load(body: bytes | bytearray, limits: LimitsConfig, charset: str = "") -> Any:  # Any: JSON
    """Parse JSON within limits: 64 MB of "[],[]," would become gigabytes of lists. None: a large one is no object.

    A lone half of a surrogate pair becomes U+FFFD, as everywhere where text is decoded leniently.
    """
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    _require_few_values(body, limits)
    try:
        loaded = _load(body, limits)
    except _NOT_JSON as error:
        mended = _as_unicode(body, limits, charset)
        if mended == body:
            raise _not_json(error, body) from None
        _require_few_values(mended, limits)  # in another charset, what looked like a text may be none
        try:
            loaded = _load(mended, limits)
        except _NOT_JSON as other:
            raise _not_json(other, mended) from None
    level = [loaded] if isinstance(loaded, _CONTAINERS) else []
    for _ in range(limits.max_nesting):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, _CONTAINERS)
        ]
    if level:
        raise _too_deep(limits)
    return loaded


def _require_few_values(body: bytes | bytearray, limits: LimitsConfig) -> None:
    values, _ = _counted(_pieces(body))
    if values > limits.max_json_values:  # those in texts too, but it takes no time
        values, _ = _counted(_structure(body))
        if values > limits.max_json_values:
            raise RequestTooLargeError("body", values, limits.max_json_values, "JSON values")


def _load(body: bytes | bytearray, limits: LimitsConfig) -> Any:  # Any: JSON
    try:
        return orjson.loads(body) if len(body) <= _PIECE_BYTES else _load_in_pieces(body, limits)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:  # beyond 1,024, orjson's own
            raise _too_deep(limits) from None
        raise
    except RecursionError:
        raise _too_deep(limits) from None


def _too_deep(limits: LimitsConfig) -> InvalidRequestError:
    return InvalidRequestError("", f"the body's JSON is nested more than {limits.max_nesting} deep")


def _not_json(error: ValueError | msgspec.DecodeError, body: bytes | bytearray) -> InvalidRequestError:
    said = str(error)
    if isinstance(error, orjson.JSONDecodeError):
        said = error.msg + (f", at character {error.pos}" if len(body) <= _PIECE_BYTES else "")
    return InvalidRequestError("", f"the body is not JSON: {said}")


def _as_unicode(body: bytes | bytearray, limits: LimitsConfig, charset: str) -> bytes | bytearray:
    """Give a body that is not clean Unicode as UTF-8 in which every text can be read; else say where it is not."""
    if b"\0" in body[:4]:
        raise UnknownCharsetError  # UTF-16 or UTF-32: no other JSON has it there
    named = normalize_encoding(charset.lower())
    named = aliases.get(named, named)
    mended = b"".join(_without_lone_surrogates(body))
    if _is_utf8(mended):
        return mended
    if named in _CHARSETS:
        try:
            read = b"".join(text.encode() for text in codecs.iterdecode(_pieces(body), named))
        except UnicodeDecodeError:
            raise InvalidRequestError("", "the body is not in the charset that its Content-Type names") from None
        if len(read) > limits.max_request_bytes:
            raise RequestTooLargeError("body", len(read), limits.max_request_bytes, "bytes")
        return b"".join(_without_lone_surrogates(read))
    if named not in ("", "utf_8", "ascii"):
        raise UnknownCharsetError
    place = _place_of_other_text(mended)
    raise InvalidRequestError(place, "is not UTF-8" if place else "the body is not UTF-8")


def _is_utf8(text: bytes | bytearray | memoryview) -> bool:
    try:
        for _ in codecs.iterdecode(_pieces(text), "utf-8"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _place_of_other_text(body: bytes | msgspec.Raw, within: bool = False) -> str:
    """The field of the first text that is not UTF-8, as a path. Empty: it is in none that is known.

    `within`: the body is an object of one, such as DashScope's `input`, and its fields are the request's.
    """
    try:
        for name, raw in _OBJECT.decode(body).items():
            if _is_utf8(memoryview(raw)):
                continue
            if not within and memoryview(raw)[0] == _BRACE and (place := _place_of_other_text(raw, within=True)):
                return place
            if name in _FIELDS:
                listed = _CONTAINER.decode(raw) if memoryview(raw)[0] == _BRACKET else {}
                bad = (f"{name}[{place}]" for place, one in enumerate(listed) if not _is_utf8(memoryview(one)))
                return next(bad, name)
    except (msgspec.DecodeError, UnicodeDecodeError):  # it is no JSON either, or a key is not UTF-8
        pass
    return ""


def _without_lone_surrogates(body: bytes | bytearray) -> Iterator[bytes]:
    """Give a body with U+FFFD for each lone half of a pair of surrogates, written as an escape or as if a character.

    Step by step; its length does not change.
    """
    start = 0
    while start < len(body):
        end = start + _STEP_BYTES
        end = len(body) if end >= len(body) else max(start + 1, _between_characters(body, end))
        piece = bytes(body[start:end])
        start = end
        if b"\\u" in piece and b"\0" not in piece:  # no JSON has a NUL, which stands here for an escaped backslash
            plain = piece.replace(b"\\\\", b"\0\0")
            piece = _LONE.sub(rb"\\ufffd", plain).replace(b"\0\0", b"\\\\")
        yield piece if piece.isascii() else _ENCODED.sub(b"\xef\xbf\xbd", piece)


def _between_characters(body: bytes | bytearray, end: int) -> int:
    """A place at or before `end` that is neither within a character or an escape nor between a pair of surrogates."""
    for place in range(end, max(0, end - 32), -1):
        if (
            body[place - 1] != _BACKSLASH
            and b"\\u" not in body[max(0, place - 5) : place]
            and body[place] & 0xC0 != 0x80  # goes on with a character
            and not _PAIR.match(body, max(0, place - 6), place + 6)
        ):
            return place
    run_end = body.rfind(b"\\", 0, end) + 1  # of backslashes, each second of which is escaped
    return run_end - (run_end - len(body[max(0, run_end - _STEP_BYTES) : run_end].rstrip(b"\\"))) % 2


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


def _pieces(body: bytes | bytearray | memoryview) -> Iterator[Any]:  # Any: a part of the same type
    for start in range(0, len(body), _STEP_BYTES):
        yield body[start : start + _STEP_BYTES]


def _counted(pieces: Iterable[bytes | bytearray]) -> tuple[int, int]:
    """Count values, and lists and objects among them."""
    commas = containers = 0
    for piece in pieces:
        commas += piece.count(b",")
        containers += piece.count(b"[") + piece.count(b"{")
    return commas + containers, containers
