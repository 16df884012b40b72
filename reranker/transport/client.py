"""The ingress's end: connections to the replicas, on each of which many shards are under way at a time."""

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
from reranker.transport.frames import Frame, FrameError, FrameReader, Kind
from reranker.types import Shard, ShardScores, ShardTerms

_OPEN_S = 5


class ShardConnection(asyncio.Protocol):
    """See `open`."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        """Set when the replica should get no more shards: it has said so, or is gone."""
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
        """Connect to a replica.

        Args:
            address: Where, and its secret.
            tls: None: in the clear.

        Raises:
            OSError: Nobody answers there.
            TimeoutError: Nobody answers there in time.
            ReplicaLostError: Somebody does who does not let us in.
        """
        async with asyncio.timeout(_OPEN_S):
            _, connection = await asyncio.get_running_loop().create_connection(cls, address.host, address.port, ssl=tls)
            connection._send(Frame(Kind.HELLO, header=orjson.dumps(address.secret)))
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
        """Shards whose answer is not here."""
        return len(self._answers)

    async def score(self, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a shard scored; cancelling this drops it there.

        Raises:
            ReplicaLostError: The connection broke first.
            RerankerError: What the replica says it is.
        """
        if self.lost.is_set():
            raise ReplicaLostError
        number = next(self._numbers)
        answer: asyncio.Future[ShardScores] = asyncio.get_running_loop().create_future()
        frame = frames.of_shard(number, shard, terms)
        self._answers[number] = answer
        try:
            self._send(frame)
            return await answer
        except asyncio.CancelledError:
            self._send(Frame(Kind.DROP, number))
            raise
        finally:
            del self._answers[number]
            self._close_if_done()

    def retire(self) -> None:
        """Close the connection once the last answer is here."""
        self._retired = True
        self._close_if_done()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        watch_peer(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except FrameError:  # a replica that cannot speak is as good as none
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
        if frame.kind == Kind.WELCOME:
            self._welcome.set()
        elif frame.kind == Kind.LEAVING:
            self.leaving.set()
        elif answer is None or answer.done():
            pass  # to what was dropped
        elif frame.kind == Kind.SCORES:
            answer.set_result(frames.read_scores(frame))
        elif frame.kind == Kind.FAILED:
            answer.set_exception(frames.read_error(frame))

    def _send(self, frame: Frame) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(frame))

    def _close_if_done(self) -> None:
        if self._retired and not self._answers and self._transport is not None:
            self._transport.close()


logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between attempts to reach a replica."""


class Links:
    """Connections to the replicas of one deployment, opened as replicas appear, and again when they break.

    A replica counts as live, and gets shards, while Serve says that it runs and a connection to it is open.
    """

    def __init__(self, changed: Callable[[Mapping[str, str]], object], tls: ssl.SSLContext | None = None) -> None:
        """Start knowing no replica.

        Args:
            changed: Told which replicas are live, each with the digest of what its engine holds, when that changes.
            tls: For all connections. None: in the clear.
        """
        self._changed, self._tls = changed, tls
        self._links: dict[str, _Link] = {}
        self._live: dict[str, ShardConnection] = {}
        self._some = asyncio.Event()

    def update(self, replicas: Mapping[str, ReplicaAddress]) -> None:
        """Take over those that are running now, by name; called on the event loop.

        The others get no more shards; what they have in hand they may finish.
        """
        for name in self._links.keys() - replicas.keys():
            self._links.pop(name).retire()
        for name, address in replicas.items():
            if name not in self._links:
                self._links[name] = _Link(name, address, self._tls, self._refresh)
        self._refresh()

    async def ready(self) -> None:
        """Wait until a replica is live."""
        while not self._live:
            await self._some.wait()

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a live replica score a shard; see `ShardConnection.score`."""
        connection = self._live.get(replica)
        if connection is None:
            raise ReplicaLostError
        return await connection.score(shard, terms)

    def _refresh(self) -> None:
        before = self._live.keys()
        self._live = {name: link.connection for name, link in self._links.items() if link.connection is not None}
        if self._live.keys() == before:
            return
        self._changed({name: self._links[name].address.model for name in self._live})
        if self._live:
            self._some.set()
        else:
            self._some.clear()


class _Link:
    """Keeps a connection to one replica open."""

    def __init__(
        self, name: str, address: ReplicaAddress, tls: ssl.SSLContext | None, changed: Callable[[], None]
    ) -> None:
        self.address = address
        self.connection: ShardConnection | None = None
        """None: the replica cannot get shards now."""
        self._name, self._tls, self._changed = name, tls, changed
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def retire(self) -> None:
        """Keep it open no longer than shards are under way."""
        self._keeping.cancel()
        if self.connection is not None:
            self.connection.retire()

    async def _keep(self) -> None:
        while True:
            connection = await self._open()
            self.connection = connection
            self._changed()
            await connection.leaving.wait()
            self.connection = None
            self._changed()
            connection.retire()
            await connection.lost.wait()

    async def _open(self) -> ShardConnection:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await ShardConnection.open(self.address, self._tls)
            except (OSError, TimeoutError, ReplicaLostError) as error:
                if pause_s == _LONGEST_PAUSE_S:  # not one that has just ended, of which Serve will tell
                    said = "%s cannot be reached at %s:%d (%s); it gets nothing to do"
                    logger.warning(said, self._name, self.address.host, self.address.port, type(error).__name__)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
