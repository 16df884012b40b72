"""The replica's end: takes shards from every ingress that knows its secret, and sends back scores as they come."""

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
from reranker.transport.frames import Frame, FrameError, FrameReader, FrameType
from reranker.types import Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

Score: TypeAlias = Callable[[Shard, ShardTerms], Awaitable[ShardScores]]

_HELLO_BYTES = 1_024
"""Memory for a stranger, who has not sent the secret."""
_HELLO_S = 5
_MAX_STRANGERS = 64
"""Further connections are closed at once."""
_LINGER_S = 0.1
"""A shard that was sent before its ingress heard that we are leaving has arrived by then."""


class ShardServer:
    """Listens for ingresses. A shard is scored unless it is dropped or its connection ends."""

    def __init__(self, host: str, model: str, score: Score, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a free port; connections are served once the event loop runs.

        Args:
            host: An address of this machine.
            model: Identity of the engine's model.
            score: Scores a shard; cancelled when nobody waits for it any more.
            tls: None: not encrypted.
        """
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.bind((host, 0))
        listening.listen(128)
        listening.setblocking(False)
        self.address = ReplicaAddress(host, listening.getsockname()[1], model)
        self.connections: set[_Connection] = set()
        self._score = score
        self._starting = asyncio.get_running_loop().create_task(
            asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=listening, ssl=tls)
        )

    @property
    def shards_in_hand(self) -> int:
        """Shards that are not answered yet."""
        return sum(len(connection.shards) for connection in self.connections)

    async def drain(self) -> None:
        """Take no more connections, ask for no more shards, answer those that are here, and hang up."""
        server = await self._starting
        server.close()
        for connection in self.connections:
            connection.send(Frame(FrameType.LEAVING))
        await asyncio.sleep(_LINGER_S)
        while tasks := [task for connection in self.connections for task in connection.shards.values()]:
            await asyncio.wait(tasks)
        for connection in list(self.connections):
            connection.hang_up()

    async def score(self, number: int, shard: Shard, terms: ShardTerms) -> Frame:
        """Make the frame that answers a shard."""
        try:
            return frames.pack_scores(number, await self._score(shard, terms))
        except RerankerError as error:
            return frames.pack_error(number, error)
        except Exception:
            logger.exception("a shard could not be scored. This is a bug.")
            return frames.pack_error(number, ScoringError())


class _Connection(asyncio.Protocol):
    """A connection of an ingress, or of a stranger."""

    def __init__(self, server: ShardServer) -> None:
        self.known = False
        self.shards: dict[int, asyncio.Task[None]] = {}
        """Those that it waits for, by number."""
        self._server = server
        self._reader = FrameReader(_HELLO_BYTES)
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        if sum(not connection.known for connection in self._server.connections) >= _MAX_STRANGERS:
            self._transport.abort()
            return
        self._server.connections.add(self)
        watch_peer(transport.get_extra_info("socket"))
        self._hello_timer = asyncio.get_running_loop().call_later(_HELLO_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except FrameError as error:
            peer = self._transport.get_extra_info("peername") if self._transport is not None else None
            logger.warning("cut off %s for an invalid message: %s", peer[0] if peer else "a stranger", error)
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        for task in self.shards.values():
            task.cancel()

    def send(self, frame: Frame) -> None:
        """Send a frame, if the ingress is still there."""
        if self.known and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(frame))

    def hang_up(self) -> None:
        """Close the connection once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def _receive(self, frame: Frame) -> None:
        if not self.known:
            self._authenticate(frame)
        elif frame.type == FrameType.SHARD:
            shard, terms = frames.unpack_shard(frame)
            if frame.number in self.shards:
                raise FrameError("two shards of one number")
            task = asyncio.get_running_loop().create_task(self._answer(frame.number, shard, terms))
            self.shards[frame.number] = task
            task.add_done_callback(lambda _: self.shards.pop(frame.number))
        elif frame.type == FrameType.DROP:
            if frame.number in self.shards:  # else it is answered already
                self.shards[frame.number].cancel()
        else:
            raise FrameError(f"a {frame.type.name} from an ingress")

    def _authenticate(self, frame: Frame) -> None:
        try:
            secret = orjson.loads(frame.header) if frame.type == FrameType.HELLO else None
        except ValueError:
            secret = None
        if not self._server.address.accepts(secret):
            raise FrameError("not the secret")
        self.known = True
        self._reader.max_bytes = frames.MAX_FRAME_BYTES
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self.send(Frame(FrameType.WELCOME))

    async def _answer(self, number: int, shard: Shard, terms: ShardTerms) -> None:
        self.send(await self._server.score(number, shard, terms))
