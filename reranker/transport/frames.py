"""Frames on the socket: a fixed prefix, a small JSON header, and arrays as they lie in memory.

    type u8 | number u64 | header bytes u32 | body bytes u32 | header (JSON) | body         all little-endian

No pickle: bytes from a socket must not be able to run anything. A reader ignores header fields that it does not know,
so replicas and ingresses of two versions understand each other during an update.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np
import orjson
from pydantic import NonNegativeInt, TypeAdapter

from reranker import errors
from reranker.errors import RerankerError, ScoringError
from reranker.types import Shard, ShardScores, ShardTerms

MAX_FRAME_BYTES = 64 * 2**20
"""A shard of 16 million tokens; `planning.max_shard_tokens` and `model.max_pair_tokens` keep them far below."""
_PREFIX = struct.Struct("<BQII")
_INT32, _FLOAT32 = np.dtype("<i4"), np.dtype("<f4")


class FrameType(IntEnum):
    """What a frame carries."""

    HELLO = 1  # an ingress's first frame: the secret
    WELCOME = 2  # the secret is right
    SHARD = 3
    DROP = 4  # nobody waits for this shard any more
    SCORES = 5
    FAILED = 6  # the shard could not be scored: a typed error
    LEAVING = 7  # the replica is about to end: it answers the shards that it has, and should get no more


_TYPES = {int(one): one for one in FrameType}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    type: FrameType
    number: int = 0  # of its shard; the ingress counts them
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
        self.max_bytes = max_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes, and give the frames that are complete; FrameError for an unknown type, or one too large."""
        self._bytes += data
        while len(self._bytes) >= _PREFIX.size:
            kind, number, header_bytes, body_bytes = _PREFIX.unpack_from(self._bytes)
            if header_bytes + body_bytes > self.max_bytes:
                raise FrameError(f"a frame of {header_bytes + body_bytes} bytes; the limit is {self.max_bytes}")
            if kind not in _TYPES:
                raise FrameError(f"a frame of type {kind}")
            start = _PREFIX.size + header_bytes
            end = start + body_bytes
            if len(self._bytes) < end:
                return
            with memoryview(self._bytes) as view:
                header, body = bytes(view[_PREFIX.size : start]), bytes(view[start:end])
            del self._bytes[:end]
            yield Frame(_TYPES[kind], number, header, body)


_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}


class FrameConnection(asyncio.Protocol):
    """One end of a connection. Subclasses get each frame in `receive`; a FrameError there ends in `refuse`."""

    transport: asyncio.Transport  # from `connection_made` on

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.reader = FrameReader(max_bytes)

    def receive(self, frame: Frame) -> None:
        raise NotImplementedError

    def refuse(self, error: FrameError) -> None:
        """Called when the other side sent something invalid."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the kernel notice within seconds that the machine at the other end is gone without closing."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.reader.feed(data):
                self.receive(frame)
        except FrameError as error:
            self.refuse(error)

    def send(self, frame: Frame) -> None:
        """Send a frame, if the other side is still there."""
        if not self.transport.is_closing():
            self.transport.write(bytes(frame))


@dataclass(frozen=True, slots=True)
class _ShardHeader:
    """Of a shard's frame. Its body is head, tail, offsets and tokens, one after the other."""

    terms: ShardTerms
    head: NonNegativeInt  # tokens
    tail: NonNegativeInt  # tokens
    pairs: NonNegativeInt
    adapter: str = ""


_SHARD_HEADER = TypeAdapter(_ShardHeader)
_ANSWER = TypeAdapter(ShardScores)


def pack_shard(number: int, shard: Shard, terms: ShardTerms) -> Frame:
    header = orjson.dumps(_ShardHeader(terms, len(shard.head), len(shard.tail), len(shard), shard.adapter))
    arrays = (shard.head, shard.tail, shard.offsets, shard.tokens)
    body = b"".join(np.ascontiguousarray(array, dtype=_INT32).tobytes() for array in arrays)
    return Frame(FrameType.SHARD, number, header, body)


def unpack_shard(frame: Frame) -> tuple[Shard, ShardTerms]:
    """Read a shard, whose arrays are read-only; FrameError if it is invalid."""
    try:
        header = _SHARD_HEADER.validate_json(frame.header)
        arrays = np.frombuffer(frame.body, dtype=_INT32)
    except ValueError as error:
        raise FrameError(f"a shard that cannot be read ({type(error).__name__})") from None
    tail_at = header.head
    offsets_at = tail_at + header.tail
    tokens_at = offsets_at + header.pairs + 1
    offsets, tokens = arrays[offsets_at:tokens_at], arrays[tokens_at:]
    fit = len(offsets) == header.pairs + 1 and offsets[0] == 0 and offsets[-1] == len(tokens)
    if not fit or (offsets[1:] < offsets[:-1]).any():
        raise FrameError("a shard whose offsets do not fit its tokens")
    return Shard(arrays[:tail_at], arrays[tail_at:offsets_at], tokens, offsets, header.adapter), header.terms


def pack_scores(number: int, answer: ShardScores) -> Frame:
    """Make the frame of a shard's answer. Its body is the logits, then a byte for each pair: whether it was scored."""
    header = orjson.dumps(answer, default=lambda array: None)
    logits = np.ascontiguousarray(answer.scores.logits, dtype=_FLOAT32).tobytes()
    return Frame(FrameType.SCORES, number, header, logits + answer.scores.scored.tobytes())


def unpack_scores(frame: Frame) -> ShardScores:
    """Read a shard's answer; FrameError if it is invalid."""
    pairs, rest = divmod(len(frame.body), _FLOAT32.itemsize + 1)
    if rest:
        raise FrameError("scores of no whole number of pairs")
    logits = np.frombuffer(frame.body, dtype=_FLOAT32, count=pairs)
    scored = np.frombuffer(frame.body, dtype=np.bool_, offset=pairs * _FLOAT32.itemsize)
    try:
        header = orjson.loads(frame.header)
        header["scores"] = header.get("scores", {}) | {"logits": logits, "scored": scored}
        return _ANSWER.validate_python(header)
    except (ValueError, TypeError, AttributeError) as error:
        raise FrameError(f"scores that cannot be read ({type(error).__name__})") from None


def pack_error(number: int, error: RerankerError) -> Frame:
    """Make an error's frame: its class and its arguments. A ScoringError where JSON cannot hold these."""
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
