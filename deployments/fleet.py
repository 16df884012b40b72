"""The engine replicas, as the ingress sees them: a Fleet over a Ray Serve handle. Ray's errors end here."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.boards import board_of
from reranker.errors import NotReadyError, ReplicaLostError, RerankerError, ScoringError
from reranker.placement import Assignment, LoadBoard, Route
from reranker.types import ReplicaLoad, Shard, ShardScores, ShardTerms

_LOST = (RayActorError, NodeDiedError, ObjectLostError, TaskCancelledError)  # a replica that ends cancels what it has
_ASSIGNED_WITHIN_S = 30
"""A cancelled call that no replica has accepted by then is given up without waiting for one."""


class RayFleet:
    """See `reranker.scatter.Fleet`."""

    def __init__(self, engine: DeploymentHandle) -> None:
        """Start to learn of the replicas.

        Args:
            engine: Handle of the engine deployment.
        """
        self._engine = engine
        self.board: LoadBoard = board_of(engine.deployment_name)
        # A handle learns of its replicas only once it is used. This call waits until there is one; nobody awaits it.
        self._first_call = engine.ready.remote()
        self._cancelling: set[asyncio.Task[None]] = set()

    def loads(self) -> Sequence[int]:
        """Tokens that each live replica has to do; costs no call."""
        return self.board.loads()

    async def score(self, shard: Shard, weight: float, timeout_s: float, route: Route) -> ShardScores:
        """Send one shard to a replica."""
        with self.board.shard(route, shard.work_tokens) as assignment:
            terms = ShardTerms(assignment.number, weight, timeout_s, self.board.name)
            # In a context of its own, and shielded: only we cancel it, see `_cancel`. When a client hangs up, Serve
            # would cancel whatever was called in the request's context, too.
            response = contextvars.Context().run(self._engine.score.remote, shard, terms)
            answer = asyncio.ensure_future(_answer(response))
            try:
                scores: ShardScores = await asyncio.shield(answer)
            except asyncio.CancelledError:
                self._cancel(response, answer, assignment)
                raise
            except _LOST:
                raise ReplicaLostError from None
            except RayServeException:  # the deployment is being replaced, or failed to start
                raise NotReadyError from None
            except RayTaskError as error:
                # As our own class again: Ray's mixture of the two prints a remote traceback as its message.
                # What is none of ours is a bug, and would be the same on every replica.
                raise (error.cause if isinstance(error.cause, RerankerError) else ScoringError()) from None
        self.board.hear(scores.replica, scores.load)
        return scores

    def _cancel(
        self, response: DeploymentResponse[ShardScores], answer: asyncio.Task[ShardScores], assignment: Assignment
    ) -> None:
        """Cancel a call; if it was sent already, once a replica has accepted it.

        Ray loses a cancellation that overtakes the call itself, and one that comes between the replica's word and our
        hearing of it (measured: of 3,000 shards cancelled within 12 ms of being sent, 76 were scored to the end).
        """
        wait_s = 0 if assignment.replica is None else _ASSIGNED_WITHIN_S
        task = asyncio.ensure_future(_cancel_once_assigned(response, answer, wait_s))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

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


async def _answer(response: DeploymentResponse[ShardScores]) -> ShardScores:
    scores: ShardScores = await response
    return scores


async def _cancel_once_assigned(
    response: DeploymentResponse[ShardScores], answer: asyncio.Task[ShardScores], wait_s: float
) -> None:
    assigned = asyncio.ensure_future(response._fetch_future_result_async())  # there is no public way to wait for it
    await asyncio.wait([assigned], timeout=wait_s)
    response.cancel()
    await asyncio.gather(assigned, answer, return_exceptions=True)
