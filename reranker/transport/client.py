"""The ingress's end: one connection to each replica, with many shards in flight on it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Self, cast

import orjson

from reranker.errors import ReplicaLostError
from reranker.transport import frames
from reranker.transport.address import ReplicaAddress, watch_peer
from reranker.transport.frames import Frame, FrameError, FrameReader, FrameType
from reranker.types import Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

_OPEN_S = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between attempts to reach a replica."""


class ShardConnection(asyncio.Protocol):
    """A connection to a replica; made by `open`."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        """Set when the replica takes no more shards: it has said so, or is gone."""
        self.lost = asyncio.Event()
        """Set when the connection has ended."""
        self._welcome = asyncio.Event()
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, asyncio.Future[ShardScores]] = {}
        self._numbers = itertools.count(1)
        self._retired = False

    @classmethod
    async def open(cls, address: ReplicaAddress, tls: ssl.SSLContext | None = None) -> Self:
        """Connect to a replica. Without `tls` nothing is encrypted.

        Raises:
            OSError: Nobody answers there.
            TimeoutError: Nobody answers there in time.
            ReplicaLostError: The other side refuses us.
        """
        async with asyncio.timeout(_OPEN_S):
            _, connection = await asyncio.get_running_loop().create_connection(cls, address.host, address.port, ssl=tls)
            connection._send(Frame(FrameType.HELLO, header=orjson.dumps(address.secret)))
            try:
                await connection._welcome.wait()
            except asyncio.CancelledError:
                connection.abort()
                raise
        if connection.lost.is_set():
            raise ReplicaLostError
        return connection

    @property
    def shards_in_flight(self) -> int:
        """Shards without an answer."""
        return len(self._answers)

    async def score(self, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a shard scored; cancelling the call drops it there.

        Raises:
            ReplicaLostError: The connection broke first.
            RerankerError: The replica's own error.
        """
        if self.lost.is_set():
            raise ReplicaLostError
        number = next(self._numbers)
        answer: asyncio.Future[ShardScores] = asyncio.get_running_loop().create_future()
        frame = frames.pack_shard(number, shard, terms)
        self._answers[number] = answer
        try:
            self._send(frame)
            return await answer
        except asyncio.CancelledError:
            self._send(Frame(FrameType.DROP, number))
            raise
        finally:
            del self._answers[number]
            self._close_if_done()

    def retire(self) -> None:
        """Close the connection after the last answer."""
        self._retired = True
        self._close_if_done()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        watch_peer(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except FrameError:  # such a replica is useless
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.lost.set()
        self.leaving.set()
        self._welcome.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ReplicaLostError())

    def _receive(self, frame: Frame) -> None:
        answer = self._answers.get(frame.number)
        if frame.type == FrameType.WELCOME:
            self._welcome.set()
        elif frame.type == FrameType.LEAVING:
            self.leaving.set()
        elif answer is None or answer.done():
            pass  # the shard was dropped
        elif frame.type == FrameType.SCORES:
            answer.set_result(frames.unpack_scores(frame))
        elif frame.type == FrameType.FAILED:
            answer.set_exception(frames.unpack_error(frame))

    def _send(self, frame: Frame) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(frame))

    def _close_if_done(self) -> None:
        if self._retired and not self._answers and self._transport is not None:
            self._transport.close()


class ReplicaConnections:
    """Connections to the replicas of one deployment, opened as replicas appear, and again when they break.

    A replica is live, and gets shards, while Serve lists it and a connection to it is open.
    """

    def __init__(self, set_live: Callable[[Mapping[str, str]], object], tls: ssl.SSLContext | None = None) -> None:
        """Start without replicas.

        Args:
            set_live: Called when the live replicas change, with the model identity of each.
            tls: For all connections. None: not encrypted.
        """
        self._set_live, self._tls = set_live, tls
        self._addresses: dict[str, ReplicaAddress] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._live: dict[str, ShardConnection] = {}
        self._any_live = asyncio.Event()

    def update(self, replicas: Mapping[str, ReplicaAddress]) -> None:
        """Replace the set of running replicas; called on the event loop.

        The others get no more shards, but may finish those they have.
        """
        ended = self._tasks.keys() - replicas.keys()
        for name in ended:
            self._tasks.pop(name).cancel()
        for name in replicas.keys() - self._tasks.keys():
            self._addresses[name] = replicas[name]
            self._tasks[name] = asyncio.get_running_loop().create_task(self._keep_open(name))
        connections = [self._live.pop(name) for name in ended & self._live.keys()]
        for connection in connections:
            connection.retire()
        if connections:
            self._report_live()
        for name in ended:
            del self._addresses[name]

    async def ready(self) -> None:
        """Wait until a replica is live."""
        while not self._live:
            await self._any_live.wait()

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a live replica score a shard; see `ShardConnection.score`."""
        connection = self._live.get(replica)
        if connection is None:
            raise ReplicaLostError
        return await connection.score(shard, terms)

    def _report_live(self) -> None:
        self._set_live({name: self._addresses[name].model for name in self._live})
        if self._live:
            self._any_live.set()
        else:
            self._any_live.clear()

    async def _keep_open(self, name: str) -> None:
        while True:
            connection = await self._open(name)
            self._live[name] = connection
            self._report_live()
            await connection.leaving.wait()
            del self._live[name]
            self._report_live()
            connection.retire()
            await connection.lost.wait()

    async def _open(self, name: str) -> ShardConnection:
        address, pause_s = self._addresses[name], _FIRST_PAUSE_S
        while True:
            try:
                return await ShardConnection.open(address, self._tls)
            except (OSError, TimeoutError, ReplicaLostError) as error:
                if pause_s == _LONGEST_PAUSE_S:  # not for one that has just ended: Serve removes it soon
                    message = "%s cannot be reached at %s:%d (%s); it gets no shards"
                    logger.warning(message, name, address.host, address.port, type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
