"""The way from the ingress to the playground's application, if there is one: through Serve, on whatever node it is.

No second port: what has no address of its own needs no key, certificate or network policy of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from ray.serve.schema import DeploymentStatus

from deployments import UI_DEPLOYMENT
from deployments.ui.visits import Head, Visit
from reranker.errors import NoPlaygroundError, PlaygroundUnavailableError

_LOOK_AGAIN_S = 2.0
"""Serve is asked no more often than this whether there is a playground: it takes 15 ms, and a path costs nothing."""
_FIRST_PART_S = 30.0
"""So long an answer may take to begin: the first page has the playground load its libraries."""
_LOST = (RayError, RayServeException, DeploymentUnavailableError)


class UILink:
    """Sends visits to the playground. Costs nothing until there is one."""

    def __init__(self) -> None:
        """Look for nothing yet."""
        self._handle: DeploymentHandle | None = None
        self._why: NoPlaygroundError | PlaygroundUnavailableError = NoPlaygroundError()
        self._looked_s = -_LOOK_AGAIN_S
        self._looking = asyncio.Lock()
        self._open: set[DeploymentResponseGenerator[Head | bytes]] = set()
        self._closed = False

    async def answer(self, visit: Visit) -> AsyncIterator[Head | bytes]:
        """Have one visit answered: first the head, then the body as it comes.

        Raises:
            NoPlaygroundError: The cluster has no such application.
            PlaygroundUnavailableError: It has, and it does not answer now.
        """
        parts = (await self._found()).answer.remote(visit)
        self._open.add(parts)
        try:
            try:
                head = await asyncio.wait_for(anext(parts), _FIRST_PART_S)
            except (TimeoutError, *_LOST):
                self._handle = None
                raise PlaygroundUnavailableError from None
            yield head
            try:
                async for part in parts:  # a stream of events may be silent for as long as it likes
                    yield part
            except _LOST:
                if not self._closed:
                    raise
        finally:
            self._open.discard(parts)
            with contextlib.suppress(*_LOST):
                parts.cancel()

    def close(self) -> None:
        """End what is open: a page holds a stream for as long as it is open, and an ingress that ends must not wait."""
        self._closed = True
        for parts in self._open:
            parts.cancel()

    async def _found(self) -> DeploymentHandle:
        async with self._looking:
            if self._handle is None:
                if time.monotonic() - self._looked_s >= _LOOK_AGAIN_S:
                    found = await asyncio.to_thread(self._look)
                    self._handle = found and found.options(stream=True)  # on the event loop, which its router is to use
                    self._looked_s = time.monotonic()
                if self._handle is None:
                    raise self._why
            return self._handle

    def _look(self) -> DeploymentHandle | None:
        """Ask Serve; blocks."""
        self._why = NoPlaygroundError()
        try:
            for name, application in serve.status().applications.items():
                if UI_DEPLOYMENT in application.deployments:
                    if application.deployments[UI_DEPLOYMENT].status == DeploymentStatus.HEALTHY:
                        return serve.get_deployment_handle(UI_DEPLOYMENT, name)
                    self._why = PlaygroundUnavailableError()
        except (RayError, RayServeException):  # Serve is shutting down
            self._why = PlaygroundUnavailableError()
        return None
