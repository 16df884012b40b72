"""The engine replicas, as the ingress sees them: a Fleet over connections to them. Ray's errors end here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from reranker.ranking.placement import LoadBoard, Route, Survey
from reranker.transport.address import tls_context
from reranker.transport.client import Links
from reranker.types import ReplicaLoad, Shard, ShardScores, ShardTerms

_MEETING_S = 2.0
_LOST = (RayActorError, NodeDiedError, ObjectLostError, TaskCancelledError)  # a replica that ends cancels what it has


class RayFleet:
    """See `scatter.Fleet`. Serve says which replicas there are; shards go past it: docs/decisions/0007."""

    def __init__(self, engine: DeploymentHandle) -> None:
        """Start to learn of the replicas.

        Args:
            engine: Handle of the engine deployment.
        """
        self._engine = engine
        self._links = links_of(engine.deployment_name)
        self.board: LoadBoard = self._links.board
        self._learning = asyncio.ensure_future(self._learn())
        self._meet_until_s = time.monotonic() + _MEETING_S

    async def meet(self) -> None:
        """Wait for a replica, but only in the first moments: Serve may have some that it has not named to us yet."""
        if (left_s := self._meet_until_s - time.monotonic()) > 0:
            await asyncio.wait([self._learning], timeout=left_s)

    async def _learn(self) -> None:
        # A handle learns of its replicas only once it is used. This call waits until there is one.
        with contextlib.suppress(*_LOST, RayServeException):
            await self._engine.named_load.remote()

    @property
    def live_replicas(self) -> int:
        """How many can take a shard; costs no call."""
        return self.board.live_replicas

    def survey(self, shards: int) -> Survey:
        """See `LoadBoard`; costs no call."""
        return self.board.survey(shards)

    def wake(self) -> None:
        """Have Serve start a replica where there is none: what it sees is a call that waits for one."""
        if self._learning.done():
            self._learning = asyncio.ensure_future(self._learn())

    @property
    def model(self) -> str | None:
        """Digest of what the engines hold. None: they are being replaced by others."""
        return self.board.model

    async def score(self, shard: Shard, weight: float, timeout_s: float, route: Route) -> ShardScores:
        """Send one shard to a replica."""
        with self.board.shard(route, shard.work_tokens) as assignment:
            live = await self._links.live()
            name = self.board.choose(assignment.number, live)  # at once, so that the next one finds it booked
            terms = ShardTerms(
                assignment.number, weight, timeout_s, self.board.name, route.attempt.request_id, shard.adapter
            )
            scores = await self._links.score(name, shard, terms)
        self.board.hear(scores.replica, scores.load)
        self.board.identify(scores.replica, scores.model)
        return scores

    async def replica_loads(self, timeout_s: float = 10.0) -> dict[str, ReplicaLoad]:
        """Ask every replica how loaded it is: a call to each, for people and tests, not for planning.

        Args:
            timeout_s: They answer between two steps of their engines, and on a CPU a step may take seconds.
        """
        asked = self._engine.broadcast("named_load")
        loads: dict[str, ReplicaLoad] = {}
        for answer in await asked.results_async(timeout_s=timeout_s, return_exceptions=True):
            if isinstance(answer, _LOST):  # nothing is loaded there any more
                continue
            if isinstance(answer, BaseException):
                raise answer
            name, load = answer
            loads[name] = load
        return loads


_deployments: dict[str, Links] = {}


def links_of(deployment: str) -> Links:
    """Those of a deployment, the same object for its router and for whoever sends it shards."""
    if deployment not in _deployments:
        _deployments[deployment] = Links(tls_context(os.environ, server=False))
    return _deployments[deployment]
