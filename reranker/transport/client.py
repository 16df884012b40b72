"""The ingress's end: one connection to each replica, with many shards in flight on it."""

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Self

from reranker.errors import ReplicaLostError
from reranker.transport.address import ReplicaAddress
from reranker.transport.frames import Frame, FrameConnection, FrameType, pack_shard, unpack_error, unpack_scores
from reranker.types import ServedModel, Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

_OPEN_S = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0  # between attempts to reach a replica


class ShardConnection(FrameConnection):
    """A connection to a replica; made by `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = asyncio.Event()  # the replica takes no more shards: it has said so, or is gone
        self.lost = asyncio.Event()  # the connection has ended
        self._welcome = asyncio.Event()
        self.answers: dict[int, asyncio.Future[ShardScores]] = {}
        self._numbers = itertools.count(1)
        self._retired = False

    @classmethod
    async def open(cls, address: ReplicaAddress, tls: ssl.SSLContext | None = None) -> Self:
        """Connect to a replica; OSError or TimeoutError if nobody answers, ReplicaLostError if it refuses us."""
        async with asyncio.timeout(_OPEN_S):
            _, connection = await asyncio.get_running_loop().create_connection(cls, address.host, address.port, ssl=tls)
            connection.send(Frame(FrameType.HELLO, header=address.hello))
            try:
                await connection._welcome.wait()
            except asyncio.CancelledError:
                connection.transport.abort()
                raise
        if connection.lost.is_set():
            raise ReplicaLostError
        return connection

    async def score(self, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a shard scored; ReplicaLostError if the connection breaks first. Cancelling the call drops the shard."""
        if self.lost.is_set():
            raise ReplicaLostError
        number = next(self._numbers)
        frame = pack_shard(number, shard, terms)
        answer: asyncio.Future[ShardScores] = asyncio.get_running_loop().create_future()
        self.answers[number] = answer
        try:
            self.send(frame)
            return await answer
        except asyncio.CancelledError:
            self.send(Frame(FrameType.DROP, number))
            raise
        finally:
            del self.answers[number]
            self._close_if_done()

    def retire(self) -> None:
        """Close the connection after the last answer."""
        self._retired = True
        self._close_if_done()

    def connection_lost(self, exc: Exception | None) -> None:
        for event in (self.lost, self.leaving, self._welcome):
            event.set()
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(ReplicaLostError())

    def receive(self, frame: Frame) -> None:
        answer = self.answers.get(frame.number)
        if frame.type == FrameType.WELCOME:
            self._welcome.set()
        elif frame.type == FrameType.LEAVING:
            self.leaving.set()
        elif answer is None or answer.done():
            pass  # the shard was dropped
        elif frame.type == FrameType.SCORES:
            answer.set_result(unpack_scores(frame))
        elif frame.type == FrameType.FAILED:
            answer.set_exception(unpack_error(frame))

    def _close_if_done(self) -> None:
        if self._retired and not self.answers:
            self.transport.close()


class ReplicaConnections:
    """Keeps a connection open to each replica of a deployment. One that Serve lists and that is connected is live."""

    def __init__(
        self, set_live: Callable[[Mapping[str, ServedModel]], object], tls: ssl.SSLContext | None = None
    ) -> None:
        """`set_live` is called when the live replicas change, with the model of each."""
        self._set_live, self._tls = set_live, tls
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._live: dict[str, tuple[ShardConnection, ServedModel]] = {}

    def update(self, replicas: Mapping[str, ReplicaAddress]) -> None:
        """Replace the set of running replicas. The others get no more shards, but may finish those they have."""
        for name in self._tasks.keys() - replicas.keys():
            self._tasks.pop(name).cancel()
            self._leave(name)
        for name in replicas.keys() - self._tasks.keys():
            self._tasks[name] = asyncio.get_running_loop().create_task(self._keep_open(name, replicas[name]))

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a live replica score a shard; see `ShardConnection.score`."""
        if replica not in self._live:
            raise ReplicaLostError
        return await self._live[replica][0].score(shard, terms)

    def _report_live(self) -> None:
        self._set_live({name: model for name, (_, model) in self._live.items()})

    def _leave(self, name: str) -> None:
        if name in self._live:
            connection, _ = self._live.pop(name)
            connection.retire()
            self._report_live()

    async def _keep_open(self, name: str, address: ReplicaAddress) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                connection = await ShardConnection.open(address, self._tls)
            except (OSError, TimeoutError, ReplicaLostError) as error:
                if pause_s == _LONGEST_PAUSE_S:  # not for one that has just ended: Serve removes it soon
                    message = "%s cannot be reached at %s:%d (%s); it gets no shards"
                    logger.warning(message, name, address.host, address.port, type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self._live[name] = connection, address.model
            self._report_live()
            await connection.leaving.wait()
            self._leave(name)
            await connection.lost.wait()
            pause_s = _FIRST_PAUSE_S
