"""The replica's end: takes shards from whoever knows its secret, and sends back scores as they come."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

import orjson

from reranker.errors import RerankerError, ScoringError
from reranker.transport import frames
from reranker.transport.address import ReplicaAddress, watch_peer
from reranker.transport.frames import Frame, FrameError, FrameReader, Kind
from reranker.types import Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

Score: TypeAlias = Callable[[Shard, ShardTerms], Awaitable[ShardScores]]

_HELLO_BYTES = 1_024
"""Whoever has not said the secret gets no more of our memory than this."""
_HELLO_S = 5
_MAX_STRANGERS = 64
"""Connections that have not said the secret yet; further ones are closed."""
_LINGER_S = 0.1
"""A shard that was sent before its sender heard that we are leaving is here by then."""


class ShardServer:
    """Listens for ingresses. A shard is scored for as long as its connection lasts and nobody drops it."""

    def __init__(self, host: str, model: str, score: Score, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on a free port; connections are served once the event loop runs.

        Args:
            host: Address of this machine; nobody else's network is listened to.
            model: Digest of what the engine holds.
            score: Scores a shard; cancelled when nobody waits for it any more.
            tls: None: in the clear.
        """
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.bind((host, 0))
        listening.listen(128)
        listening.setblocking(False)
        self.address = ReplicaAddress.new(host, listening.getsockname()[1], model)
        self._score = score
        self._connections: set[_Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._starting = self._loop.create_task(
            self._loop.create_server(lambda: _Connection(self), sock=listening, ssl=tls)
        )

    @property
    def shards_in_hand(self) -> int:
        """Shards that are not answered yet."""
        return sum(len(one.shards) for one in self._connections)

    async def drain(self) -> None:
        """Take no more connections, ask for no more shards, answer those that are here, and hang up."""
        server = await self._starting
        server.close()
        for connection in self._connections:
            connection.send(Frame(Kind.LEAVING))
        await asyncio.sleep(_LINGER_S)
        while tasks := [task for one in self._connections for task in one.shards.values()]:
            await asyncio.wait(tasks)
        for connection in list(self._connections):
            connection.hang_up()

    async def score(self, number: int, shard: Shard, terms: ShardTerms) -> Frame:
        """Make the frame that answers a shard."""
        try:
            return frames.of_scores(number, await self._score(shard, terms))
        except RerankerError as error:
            return frames.of_error(number, error)
        except Exception:
            logger.exception("a shard could not be scored. This is a bug.")
            return frames.of_error(number, ScoringError())

    def join(self, connection: _Connection) -> bool:
        """Take in a new connection; False: there are too many that have not said who they are."""
        if sum(not one.known for one in self._connections) >= _MAX_STRANGERS:
            return False
        self._connections.add(connection)
        return True

    def part(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One ingress, or somebody else."""

    def __init__(self, server: ShardServer) -> None:
        self.known = False
        self.shards: dict[int, asyncio.Task[None]] = {}
        """What it waits for, by number."""
        self._server = server
        self._reader = FrameReader(_HELLO_BYTES)
        self._transport: asyncio.Transport | None = None
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        if not self._server.join(self):
            self._transport.abort()
            return
        watch_peer(transport.get_extra_info("socket"))
        self._impatience = asyncio.get_running_loop().call_later(_HELLO_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except FrameError as error:
            logger.warning("%s sends what we do not understand, and is cut off: %s", self._peer(), error)
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.part(self)
        if self._impatience is not None:
            self._impatience.cancel()
        for task in self.shards.values():
            task.cancel()

    def send(self, frame: Frame) -> None:
        """Send a frame, if there is still somebody to send it to."""
        if self.known and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(frame))

    def hang_up(self) -> None:
        """Close the connection, once what was sent is out."""
        if self._transport is not None:
            self._transport.close()

    def _receive(self, frame: Frame) -> None:
        if not self.known:
            self._let_in(frame)
        elif frame.kind == Kind.SHARD:
            shard, terms = frames.read_shard(frame)
            if frame.number in self.shards:
                raise FrameError("two shards of one number")
            task = asyncio.get_running_loop().create_task(self._answer(frame.number, shard, terms))
            self.shards[frame.number] = task
            task.add_done_callback(lambda _: self.shards.pop(frame.number))
        elif frame.kind == Kind.DROP:
            if frame.number in self.shards:  # else it is answered already
                self.shards[frame.number].cancel()
        else:
            raise FrameError(f"a {frame.kind.name} from an ingress")

    def _let_in(self, frame: Frame) -> None:
        try:
            secret = orjson.loads(frame.header) if frame.kind == Kind.HELLO else None
        except ValueError:
            secret = None
        if not self._server.address.opens(secret):
            raise FrameError("not the secret")
        self.known = True
        self._reader.max_bytes = frames.MAX_FRAME_BYTES
        if self._impatience is not None:
            self._impatience.cancel()
        self.send(Frame(Kind.WELCOME))

    async def _answer(self, number: int, shard: Shard, terms: ShardTerms) -> None:
        self.send(await self._server.score(number, shard, terms))

    def _peer(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer else "somebody"
