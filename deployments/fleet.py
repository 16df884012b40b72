"""The engine replicas, as the ingress sees them: a Fleet over a Ray Serve handle. Ray's errors end here."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
)
from ray.serve._private.common import RequestMetadata  # private, but what a PendingRequest is made of
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RunningReplica

from deployments.boards import replicas_of
from reranker.errors import ReplicaLostError, RerankerError, ScoringError
from reranker.placement import LoadBoard, Route
from reranker.types import ReplicaLoad, Shard, ShardScores, ShardTerms

_LOST = (RayActorError, NodeDiedError, ObjectLostError, TaskCancelledError)  # a replica that ends cancels what it has
_INTRODUCTION_S = 1
"""The first list waits so long for the first replica's introduction, which is on its way when there is a replica."""


class RayFleet:
    """See `reranker.scatter.Fleet`.

    A shard goes to its replica in one call and comes back in one answer. Serve's handle would route it, ask whether the
    replica accepts it, and stream word of that before the answer. Figures: docs/decisions/0006-no-proxy.md.
    """

    def __init__(self, engine: DeploymentHandle) -> None:
        """Start to learn of the replicas.

        Args:
            engine: Handle of the engine deployment.
        """
        self._engine = engine
        self._replicas = replicas_of(engine.deployment_name)
        self.board: LoadBoard = self._replicas.board
        # A handle learns of its replicas only once it is used. This call waits until there is one.
        self._first_call = engine.introduce.remote()
        self._introduction: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Future[Any]] = set()

    def loads(self) -> Sequence[int]:
        """Tokens that each live replica has to do; costs no call."""
        return self.board.loads()

    async def model(self) -> str | None:
        """Digest of what the engines hold. None: they are being replaced by others, or none has said yet."""
        if self._introduction is None:
            self._introduction = asyncio.ensure_future(self._introduced())
        if not self._introduction.done():
            await asyncio.wait([self._introduction], timeout=_INTRODUCTION_S)
        return self.board.model

    async def _introduced(self) -> None:
        with contextlib.suppress(*_LOST, RayServeException):  # what replaces it will introduce itself
            self.board.identify(*await self._first_call)

    async def score(self, shard: Shard, weight: float, timeout_s: float, route: Route) -> ShardScores:
        """Send one shard to a replica."""
        with self.board.shard(route, shard.work_tokens) as assignment:
            replicas = await self._replicas.running()
            name = self.board.choose(assignment.number, replicas)  # at once, so that the next one finds it booked
            replica = replicas[name]
            terms = ShardTerms(assignment.number, weight, timeout_s, self.board.name, route.attempt.request_id)
            answer = self._call(replica, "score", shard, terms)
            try:
                scores: ShardScores = await asyncio.shield(answer)
            except asyncio.CancelledError:
                self._drop(replica, terms, answer)
                raise
            except ActorDiedError:
                self._replicas.lose(name)
                raise ReplicaLostError from None
            except _LOST:
                raise ReplicaLostError from None
            except RayTaskError as error:
                # As our own class again: Ray's mixture of the two prints a remote traceback as its message.
                # What is none of ours is a bug, and would be the same on every replica.
                raise (error.cause if isinstance(error.cause, RerankerError) else ScoringError()) from None
        self.board.hear(scores.replica, scores.load)
        self.board.identify(scores.replica, scores.model)
        return scores

    def _call(self, replica: RunningReplica, method: str, *arguments: object) -> asyncio.Future[Any]:
        """Call a method of a replica, past Serve's handle but through its books: Serve counts it, and waits for it."""
        number = uuid.uuid4().hex
        metadata = RequestMetadata(number, number, call_method=method, app_name=self._engine.app_name)
        request = PendingRequest(args=list(arguments), kwargs={}, metadata=metadata)
        result = replica.try_send_request(request, with_rejection=False)
        future: asyncio.Future[Any] = asyncio.ensure_future(result.get_async())
        return future

    def _drop(self, replica: RunningReplica, terms: ShardTerms, answer: asyncio.Future[Any]) -> None:
        """Tell a replica that nobody waits for a shard any more.

        Not by Ray's own cancellation, which is lost when it overtakes the call (measured: of 3,000 shards cancelled
        within 12 ms of being sent, 76 were scored to the end).
        """
        dropped = self._call(replica, "drop", terms.sender, terms.assignment)
        both = asyncio.gather(answer, dropped, return_exceptions=True)
        self._dropping.add(both)
        both.add_done_callback(self._dropping.discard)

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
