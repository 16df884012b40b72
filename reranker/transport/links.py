"""The ingress's connections to all replicas of a deployment: opened as replicas appear, opened again when they break.

A replica counts as live, and gets shards, while Serve says that it runs and a connection to it is open.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection, Mapping

from reranker.errors import ReplicaLostError
from reranker.ranking.placement import LoadBoard
from reranker.transport.address import ReplicaAddress
from reranker.transport.client import ShardConnection
from reranker.types import Shard, ShardScores, ShardTerms

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between attempts to reach a replica."""


class Links:
    """Connections to the replicas of one deployment, and the load board over those that are live."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Start knowing no replica.

        Args:
            tls: For all connections. None: in the clear.
        """
        self.board = LoadBoard()
        self._tls = tls
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

    async def live(self) -> Collection[str]:
        """Names of the live replicas; waits until there is one."""
        while not self._live:
            await self._some.wait()
        return self._live.keys()

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        """Have a live replica score a shard; see `ShardConnection.score`."""
        connection = self._live.get(replica)
        if connection is None:
            raise ReplicaLostError
        return await connection.score(shard, terms)

    def _refresh(self) -> None:
        live = {name: link.connection for name, link in self._links.items() if link.connection is not None}
        if live.keys() == self._live.keys():
            self._live = live
            return
        self._live = live
        self.board.set_live(live)
        for name in live:
            self.board.identify(name, self._links[name].address.model)
        if live:
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
