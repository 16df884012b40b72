"""The replica's end: takes shards from every ingress that knows its secret, and sends back scores as they come."""

import asyncio
import hmac
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from reranker.errors import RerankerError, ScoringError
from reranker.transport import frames
from reranker.transport.address import ReplicaAddress
from reranker.transport.frames import Frame, FrameConnection, FrameError, FrameType
from reranker.types import ServedModel, Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

Score = Callable[[Shard, ShardTerms], Awaitable[ShardScores]]

_HELLO_BYTES, _HELLO_S = 1_024, 5  # for a stranger, who has not sent the secret
_MAX_STRANGERS = 64  # with one more, the oldest is closed: who knows the secret sends it at once
_LINGER_S = 0.1  # a shard that was sent before its ingress heard that we are leaving has arrived by then


class ShardServer:
    """Listens on a free port of one address. `score` is cancelled when nobody waits for the shard any more."""

    def __init__(self, host: str, model: ServedModel, score: Score, tls: ssl.SSLContext | None = None) -> None:
        """`model` is for clients. Without `tls` nothing is encrypted."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family, backlog=128)
        self.address = ReplicaAddress(host, listening.getsockname()[1], model)
        self.score = score
        self.connections: dict[_Connection, None] = {}  # the oldest first
        loop = asyncio.get_running_loop()
        self._starting = loop.create_task(loop.create_server(lambda: _Connection(self), sock=listening, ssl=tls))

    @property
    def shards_in_hand(self) -> int:
        return sum(len(connection.shards) for connection in self.connections)

    async def drain(self) -> None:
        """Take no more connections, ask for no more shards, answer those that are here, and hang up."""
        server = await self._starting
        server.close()
        for connection in (one for one in self.connections if one.known):  # a stranger is told nothing
            connection.send(Frame(FrameType.LEAVING))
        await asyncio.sleep(_LINGER_S)
        while tasks := [task for connection in self.connections for task in connection.shards.values()]:
            await asyncio.wait(tasks)
        for connection in list(self.connections):
            connection.transport.close()


class _Connection(FrameConnection):
    """A connection of an ingress, or of a stranger."""

    def __init__(self, server: ShardServer) -> None:
        super().__init__(_HELLO_BYTES)
        self.known = False
        self.shards: dict[int, asyncio.Task[None]] = {}  # those that it waits for, by number
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        strangers = [one for one in self._server.connections if not one.known]
        if len(strangers) >= _MAX_STRANGERS:
            del self._server.connections[strangers[0]]
            strangers[0].transport.abort()
        self._server.connections[self] = None
        asyncio.get_running_loop().call_later(_HELLO_S, self._end_stranger)

    def _end_stranger(self) -> None:
        if not self.known:
            self.transport.abort()

    def refuse(self, error: FrameError) -> None:
        peer = self.transport.get_extra_info("peername")
        logger.warning("cut off %s for an invalid message: %s", peer[0] if peer else "a stranger", error)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.pop(self, None)
        for task in self.shards.values():
            task.cancel()

    def receive(self, frame: Frame) -> None:
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
        right = hmac.compare_digest(frame.header, self._server.address.hello)  # as quick for every wrong one
        if frame.type != FrameType.HELLO or not right:
            raise FrameError("not the secret")
        self.known = True
        self.reader.max_bytes = frames.MAX_FRAME_BYTES
        self.send(Frame(FrameType.WELCOME))

    async def _answer(self, number: int, shard: Shard, terms: ShardTerms) -> None:
        try:
            frame = frames.pack_scores(number, await self._server.score(shard, terms))
        except RerankerError as error:
            frame = frames.pack_error(number, error)
        except Exception:
            logger.exception("a shard could not be scored. This is a bug.")
            frame = frames.pack_error(number, ScoringError())
        self.send(frame)
