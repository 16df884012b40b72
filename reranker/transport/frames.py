"""Frames on the socket: a fixed prefix, a small JSON header, and arrays as they lie in memory.

    type u8 | number u64 | header bytes u32 | body bytes u32 | header (JSON) | body         all little-endian

No pickle: bytes from a socket must not be able to run anything. A reader ignores header fields that it does not know,
so replicas and ingresses of two versions understand each other during an update.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, get_type_hints

import numpy as np
import orjson
from pydantic import TypeAdapter

from reranker import errors
from reranker.errors import RerankerError, ScoringError
from reranker.types import EngineScores, Shard, ShardScores, ShardTerms

MAX_FRAME_BYTES = 64 * 2**20
"""A shard of 16 million tokens; `planning.max_shard_tokens` and `model.max_pair_tokens` keep them far below."""
_PREFIX = struct.Struct("<BQII")
_INT32, _FLOAT32 = np.dtype("<i4"), np.dtype("<f4")


class FrameType(IntEnum):
    """What a frame carries."""

    HELLO = 1
    """An ingress's first frame: the secret."""
    WELCOME = 2
    """The secret is right."""
    SHARD = 3
    DROP = 4
    """Nobody waits for this shard any more."""
    SCORES = 5
    FAILED = 6
    """The shard could not be scored: a typed error."""
    LEAVING = 7
    """The replica is about to end: it answers the shards that it has, and should get no more."""


_TYPES = frozenset(FrameType)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    type: FrameType
    number: int = 0
    """Of its shard; the ingress counts them."""
    header: bytes = b""
    body: bytes = b""

    def __bytes__(self) -> bytes:
        if len(self.header) + len(self.body) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(self.header) + len(self.body)} bytes")
        return _PREFIX.pack(self.type, self.number, len(self.header), len(self.body)) + self.header + self.body


class FrameError(ValueError):
    """The other side sent something that is no valid frame."""


class FrameReader:
    """Cuts arriving bytes into frames of at most `max_bytes`; nothing larger is collected."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at a frame's first byte."""
        self.max_bytes = max_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes; give the frames that are complete.

        Raises:
            FrameError: An unknown type of frame, or one that is too large.
        """
        self._bytes += data
        while len(self._bytes) >= _PREFIX.size:
            number_of_type, number, header_bytes, body_bytes = _PREFIX.unpack_from(self._bytes)
            if header_bytes + body_bytes > self.max_bytes:
                raise FrameError(f"a frame of {header_bytes + body_bytes} bytes; the limit is {self.max_bytes}")
            if number_of_type not in _TYPES:
                raise FrameError(f"a frame of type {number_of_type}")
            start = _PREFIX.size + header_bytes
            end = start + body_bytes
            if len(self._bytes) < end:
                return
            header, body = bytes(self._bytes[_PREFIX.size : start]), bytes(self._bytes[start:end])
            del self._bytes[:end]
            yield Frame(FrameType(number_of_type), number, header, body)


@dataclass(frozen=True, slots=True)
class _ShardHeader:
    """Of a shard's frame. Its body is head, tail, offsets and tokens, one after the other."""

    terms: ShardTerms
    head: int
    """Tokens."""
    tail: int
    """Tokens."""
    pairs: int
    adapter: str = ""


def _fields(answer: type, *arrays: str) -> dict[str, TypeAdapter[Any]]:  # Any: fields of every type
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(answer).items() if name not in arrays}


_SHARD_HEADER = TypeAdapter(_ShardHeader)
_ANSWER_FIELDS, _ENGINE_FIELDS = _fields(ShardScores, "scores"), _fields(EngineScores, "logits", "scored")


def pack_shard(number: int, shard: Shard, terms: ShardTerms) -> Frame:
    """Make a shard's frame."""
    header = orjson.dumps(_ShardHeader(terms, len(shard.head), len(shard.tail), len(shard), shard.adapter))
    arrays = (shard.head, shard.tail, shard.offsets, shard.tokens)
    body = b"".join(np.ascontiguousarray(array, dtype=_INT32).tobytes() for array in arrays)
    return Frame(FrameType.SHARD, number, header, body)


def unpack_shard(frame: Frame) -> tuple[Shard, ShardTerms]:
    """Read a shard; its arrays are read-only.

    Raises:
        FrameError: This is no valid shard.
    """
    try:
        header = _SHARD_HEADER.validate_json(frame.header)
        arrays = np.frombuffer(frame.body, dtype=_INT32)
    except ValueError as error:
        raise FrameError(f"a shard that cannot be read ({type(error).__name__})") from None
    if min(header.head, header.tail, header.pairs) < 0:
        raise FrameError("a shard with a negative length")
    head, tail, offsets, tokens = np.split(arrays, np.cumsum([header.head, header.tail, header.pairs + 1]))
    if (
        len(offsets) != header.pairs + 1
        or offsets[0] != 0
        or offsets[-1] != len(tokens)
        or (np.diff(offsets) < 0).any()
    ):
        raise FrameError("a shard whose offsets do not fit its tokens")
    return Shard(head, tail, tokens, offsets, header.adapter), header.terms


def pack_scores(number: int, answer: ShardScores) -> Frame:
    """Make the frame of a shard's answer. Its body is the logits, then a byte for each pair: whether it was scored."""
    fields = {name: getattr(answer, name) for name in _ANSWER_FIELDS}
    header = orjson.dumps(fields | {"scores": {name: getattr(answer.scores, name) for name in _ENGINE_FIELDS}})
    logits = np.ascontiguousarray(answer.scores.logits, dtype=_FLOAT32).tobytes()
    return Frame(FrameType.SCORES, number, header, logits + answer.scores.scored.tobytes())


def unpack_scores(frame: Frame) -> ShardScores:
    """Read a shard's answer.

    Raises:
        FrameError: This is no valid answer.
    """
    pairs, rest = divmod(len(frame.body), _FLOAT32.itemsize + 1)
    if rest:
        raise FrameError("scores of no whole number of pairs")
    logits = np.frombuffer(frame.body, dtype=_FLOAT32, count=pairs)
    scored = np.frombuffer(frame.body, dtype=np.bool_, offset=pairs * _FLOAT32.itemsize)
    try:
        header = orjson.loads(frame.header)
        scores = EngineScores(logits, scored, **_validated(header.get("scores", {}), _ENGINE_FIELDS))
        return ShardScores(scores, **_validated(header, _ANSWER_FIELDS))
    except (ValueError, TypeError, AttributeError) as error:
        raise FrameError(f"scores that cannot be read ({type(error).__name__})") from None


def _validated(header: Mapping[str, object], fields: Mapping[str, TypeAdapter[Any]]) -> dict[str, Any]:
    return {name: field.validate_python(header[name]) for name, field in fields.items() if name in header}


def pack_error(number: int, error: RerankerError) -> Frame:
    """Make an error's frame: its class's name and its arguments. A ScoringError where JSON cannot hold these."""
    try:
        header = orjson.dumps({"error": type(error).__name__, "arguments": error.args})
    except TypeError:
        return pack_error(number, ScoringError())
    return Frame(FrameType.FAILED, number, header)


def unpack_error(frame: Frame) -> RerankerError:
    """Read an error; an unknown one is a ScoringError."""
    try:
        header = orjson.loads(frame.header)
        error = getattr(errors, header["error"])
        if isinstance(error, type) and issubclass(error, RerankerError):
            return error(*header["arguments"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return ScoringError()
