"""The engine replicas as the ingress sees them: which there are, and connections to them. Ray's errors end here."""

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from reranker.errors import NoAnswerError
from reranker.ranking.placement import Placement
from reranker.ranking.scatter import HandOverError
from reranker.ranking.threads import SharedCall
from reranker.transport.address import ReplicaAddress, tls_context
from reranker.transport.client import ReplicaConnections
from reranker.types import ReplicaLoad, ServedModel

logger = logging.getLogger(__name__)

_MEETING_S = 2.0
_LOOK_S = 0.05
_ANSWERS_S = 10.0
_LOST = (RayActorError, NodeDiedError, ObjectLostError, TaskCancelledError)  # a replica that ends cancels its calls


class EngineReplicas:
    """The replicas of one deployment that Serve lists; `router.ShardRouter` updates them."""

    def __init__(self) -> None:
        self.placement = Placement()
        self.connections = ReplicaConnections(self._set_live, tls_context(os.environ, server=False))
        self._changed = asyncio.Event()  # another one after each change
        self._leaving = False
        self._apart = False  # whether some hold what our lists are not scored with

    def update(self, addresses: Mapping[str, ReplicaAddress], loads: Mapping[str, ReplicaLoad]) -> None:
        self.connections.update(addresses)
        for name, load in loads.items():
            self.placement.note_load(name, load)

    async def ready(self) -> None:
        """Wait until a replica takes new lists; HandOverError if none does and we are leaving."""
        while not self.placement.live_replicas:
            if self._leaving:
                raise HandOverError
            await self._changed.wait()

    def leave(self) -> None:
        """Wait for no replicas any more: those that start now are for our successors."""
        self._leaving = True
        self._notify()

    def _set_live(self, models: Mapping[str, ServedModel]) -> None:
        self.placement.set_live(models, models)
        self._notify()
        left_out = len(models) - self.placement.live_replicas
        if bool(left_out) != self._apart:
            self._apart = bool(left_out)
            said = "%d of %d engine replicas hold another model than the one that scores our lists, and get none"
            logger.warning(said, left_out, len(models))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@functools.cache
def replicas_of(deployment: str) -> EngineReplicas:
    """A deployment's replicas: one object for its router and for whoever sends it shards."""
    return EngineReplicas()


class RayFleet:
    """A `scatter.Fleet`. Serve lists the replicas; shards do not pass through it: docs/decisions/0007."""

    def __init__(self, engine: DeploymentHandle, own: ServedModel) -> None:
        """`own` is what engines of this ingress's own deployment say of themselves, without the identity."""
        self._engine = engine
        replicas = replicas_of(engine.deployment_name)
        self.placement = replicas.placement
        self.placement.own = own
        self.ready, self.leave, self.score = replicas.ready, replicas.leave, replicas.connections.score
        self._discovery = asyncio.ensure_future(self._discover())
        self._first_asked_s: float | None = None
        self._loads = SharedCall(self._ask_loads)

    async def meet(self, engines_run: Callable[[], Awaitable[bool]], deadline_s: float) -> None:
        """Wait for a replica that has not been listed to us yet: in the first moments, and as long as `engines_run`.

        Where Serve has none, because it has scaled to zero, a call that waits makes it start one.

        Args:
            engines_run: Whether there are replicas, asked of Serve.
            deadline_s: On the monotonic clock.
        """
        if self.placement.any_yet:
            if not self.placement.live_replicas and self._discovery.done():
                self._discovery = asyncio.ensure_future(self._discover())
            return
        if self._first_asked_s is None:
            self._first_asked_s = time.monotonic()
        meeting_until_s = self._first_asked_s + _MEETING_S
        while not self.placement.live_replicas and (now_s := time.monotonic()) < deadline_s:
            if now_s >= meeting_until_s and not await engines_run():
                return
            if self._discovery.done():
                self._discovery = asyncio.ensure_future(self._discover())
            await asyncio.sleep(_LOOK_S)

    async def _discover(self) -> None:
        # A handle learns its replicas only with its first call. This call waits until there is one.
        with contextlib.suppress(*_LOST, RayServeException):
            await self._engine.named_load.remote()

    async def replica_loads(self) -> dict[str, ReplicaLoad]:
        """Call every replica for its load: for people and tests, not for planning.

        They answer between two steps of their engines, and on a CPU a step may take seconds.
        """
        return await self._loads.answer()

    async def _ask_loads(self) -> dict[str, ReplicaLoad]:
        return dict(await ask_all(self._engine, "named_load", lost=_LOST))


async def ask_all(
    replicas: DeploymentHandle, method: str, lost: tuple[type[BaseException], ...] = ()
) -> list[Any]:  # Any: what the method gives
    """Call a method of all replicas of a deployment. Those that are `lost` are left out, else all answer.

    NoAnswerError: they do not, or not in time. What the method itself raises is raised.
    """
    try:
        called = replicas.broadcast(method)
        answers = await called.results_async(timeout_s=_ANSWERS_S, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, lost):
                raise answer
    except RayTaskError:
        raise
    except (TimeoutError, RayError, RayServeException):
        raise NoAnswerError from None
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def ask_another(replicas: DeploymentHandle, method: str, *arguments: object) -> Any:  # Any: what the method gives
    """Call a method of some replica of a deployment. None: it was lost, or there is none. What it raises is raised."""
    try:
        return await getattr(replicas, method).remote(*arguments)
    except RayTaskError:
        raise
    except (RayError, RayServeException):
        return None
