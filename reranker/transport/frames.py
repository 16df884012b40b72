"""What travels on the socket: frames of a fixed prefix, a small JSON header, and arrays as they lie in memory.

    kind u8 | number u64 | header bytes u32 | body bytes u32 | header (JSON) | body         all little-endian

No pickle: what comes over a socket must not be able to run anything. A header may have more fields than its reader
knows, so that replicas and ingresses of two versions understand each other while one replaces the other.
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


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    """From the ingress, first of all: the secret."""
    WELCOME = 2
    """The secret is the right one."""
    SHARD = 3
    DROP = 4
    """Nobody waits for this shard any more."""
    SCORES = 5
    FAILED = 6
    """The shard could not be scored: a typed error."""
    LEAVING = 7
    """The replica is about to end: it answers what it has, and should get no more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: Kind
    number: int = 0
    """Of the shard it is about; the sender of shards counts them."""
    header: bytes = b""
    body: bytes = b""

    def __bytes__(self) -> bytes:
        if len(self.header) + len(self.body) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(self.header) + len(self.body)} bytes")
        return _PREFIX.pack(self.kind, self.number, len(self.header), len(self.body)) + self.header + self.body


class FrameError(ValueError):
    """These bytes are not what we send each other."""


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at a frame's first byte.

        Args:
            max_bytes: Of one frame; nothing larger is collected.
        """
        self.max_bytes = max_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take in what has arrived; give the frames that are complete.

        Raises:
            FrameError: An unknown kind of frame, or a larger one than is allowed.
        """
        self._bytes += data
        while len(self._bytes) >= _PREFIX.size:
            kind, number, header_bytes, body_bytes = _PREFIX.unpack_from(self._bytes)
            if header_bytes + body_bytes > self.max_bytes:
                raise FrameError(f"a frame of {header_bytes + body_bytes} bytes; the limit is {self.max_bytes}")
            if kind not in _KINDS:
                raise FrameError(f"a frame of kind {kind}")
            start = _PREFIX.size + header_bytes
            end = start + body_bytes
            if len(self._bytes) < end:
                return
            frame = Frame(Kind(kind), number, bytes(self._bytes[_PREFIX.size : start]), bytes(self._bytes[start:end]))
            del self._bytes[:end]
            yield frame


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class _ShardHeader:
    """Of a frame with a shard, whose body is head, tail, offsets and tokens, one after the other."""

    terms: ShardTerms
    head: int
    """Tokens."""
    tail: int
    pairs: int
    adapter: str = ""


_SHARD_HEADER = TypeAdapter(_ShardHeader)


def _facts(kind: type, *arrays: str) -> dict[str, TypeAdapter[Any]]:  # Any: whatever a replica says besides the scores
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(kind).items() if name not in arrays}


_ANSWER_FACTS, _ENGINE_FACTS = _facts(ShardScores, "scores"), _facts(EngineScores, "logits", "scored")


def of_shard(number: int, shard: Shard, terms: ShardTerms) -> Frame:
    """Pack a shard."""
    header = orjson.dumps(_ShardHeader(terms, len(shard.head), len(shard.tail), len(shard), shard.adapter))
    arrays = (shard.head, shard.tail, shard.offsets, shard.tokens)
    body = b"".join(np.ascontiguousarray(one, dtype=_INT32).tobytes() for one in arrays)
    return Frame(Kind.SHARD, number, header, body)


def read_shard(frame: Frame) -> tuple[Shard, ShardTerms]:
    """Unpack a shard; its arrays cannot be written to.

    Raises:
        FrameError: This is no shard.
    """
    try:
        header = _SHARD_HEADER.validate_json(frame.header)
        everything = np.frombuffer(frame.body, dtype=_INT32)
    except ValueError as error:
        raise FrameError(f"a shard that cannot be read ({type(error).__name__})") from None
    if min(header.head, header.tail, header.pairs) < 0:
        raise FrameError("a shard with less than nothing in it")
    head, tail, offsets, tokens = np.split(everything, np.cumsum([header.head, header.tail, header.pairs + 1]))
    if (
        len(offsets) != header.pairs + 1
        or offsets[0] != 0
        or offsets[-1] != len(tokens)
        or (np.diff(offsets) < 0).any()
    ):
        raise FrameError("a shard whose offsets do not fit its tokens")
    return Shard(head, tail, tokens, offsets, header.adapter), header.terms


def of_scores(number: int, answer: ShardScores) -> Frame:
    """Pack the answer to a shard: its body is the logits, then a byte for each pair that says whether it was scored."""
    said = {name: getattr(answer, name) for name in _ANSWER_FACTS}
    header = orjson.dumps(said | {"scores": {name: getattr(answer.scores, name) for name in _ENGINE_FACTS}})
    logits = np.ascontiguousarray(answer.scores.logits, dtype=_FLOAT32).tobytes()
    return Frame(Kind.SCORES, number, header, logits + answer.scores.scored.tobytes())


def read_scores(frame: Frame) -> ShardScores:
    """Unpack the answer to a shard.

    Raises:
        FrameError: This is none.
    """
    pairs, rest = divmod(len(frame.body), _FLOAT32.itemsize + 1)
    if rest:
        raise FrameError("scores of no whole number of pairs")
    logits = np.frombuffer(frame.body, dtype=_FLOAT32, count=pairs)
    scored = np.frombuffer(frame.body, dtype=np.bool_, offset=pairs * _FLOAT32.itemsize)
    try:
        said = orjson.loads(frame.header)
        scores = EngineScores(logits, scored, **_known(said.get("scores", {}), _ENGINE_FACTS))
        return ShardScores(scores, **_known(said, _ANSWER_FACTS))
    except (ValueError, TypeError, AttributeError) as error:
        raise FrameError(f"scores that cannot be read ({type(error).__name__})") from None


def _known(said: Mapping[str, object], facts: Mapping[str, TypeAdapter[Any]]) -> dict[str, Any]:
    return {name: one.validate_python(said[name]) for name, one in facts.items() if name in said}


def of_error(number: int, error: RerankerError) -> Frame:
    """Pack an error, by its class's name and its arguments; a ScoringError where JSON cannot hold these."""
    try:
        header = orjson.dumps({"error": type(error).__name__, "arguments": error.args})
    except TypeError:
        return of_error(number, ScoringError())
    return Frame(Kind.FAILED, number, header)


def read_error(frame: Frame) -> RerankerError:
    """Unpack an error; what we do not know is a ScoringError."""
    try:
        said = orjson.loads(frame.header)
        known = getattr(errors, said["error"])
        if isinstance(known, type) and issubclass(known, RerankerError):
            return known(*said["arguments"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return ScoringError()
