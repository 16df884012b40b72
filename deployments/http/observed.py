"""What stands around everything else: each request gets its id and its timeline, and who wants to know hears of it.

A request is told of once, after its answer is out or its client has gone: what tells of it costs it no time, and cannot
fail it. Only counting comes before.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker.record import Timeline, request_id

logger = logging.getLogger(__name__)

Observer: TypeAlias = Callable[[Timeline], None]
"""Told of each request that has ended, of every path."""
_REQUEST_ID, _TRACEPARENT, _TRACESTATE = b"x-request-id", b"traceparent", b"tracestate"
_READ = frozenset({_REQUEST_ID, _TRACEPARENT, _TRACESTATE})
_MAX_ID = 128
CLIENT_GONE, _CLIENT_GONE_CODE = 499, "client_gone"
"""Nobody reads this answer; the number is nginx's."""


class Observed:
    """ASGI middleware. Leaves `timeline`, a `reranker.record.Timeline`, in the request's state."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = (), count: Observer | None = None) -> None:
        """Wrap an application.

        Args:
            app: The application.
            observers: Told of each request, in this order.
            count: Told of each as well, before its answer goes out: no client may have one that is not counted.
        """
        self._app, self._observers = app, observers
        self._counting = () if count is None else (count,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timeline = _timeline(scope)
        request_id.set(timeline.request_id)  # each request has a task of its own
        scope = {**scope, "state": {**scope.get("state", {}), "timeline": timeline}}

        async def noted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                timeline.status = message["status"]
                if timeline.status != CLIENT_GONE:
                    self._tell(timeline, self._counting)
                headers = [*message.get("headers", ()), (_REQUEST_ID, timeline.request_id.encode("latin-1"))]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        except asyncio.CancelledError:
            if not timeline.status:
                timeline.status = CLIENT_GONE
            raise
        finally:
            timeline.end()
            if not timeline.status or timeline.status == CLIENT_GONE:
                timeline.status, timeline.error = CLIENT_GONE, timeline.error or _CLIENT_GONE_CODE
                self._tell(timeline, self._counting)
            elif timeline.status >= 400 and not timeline.error:  # by what stands within us but outside the routes
                timeline.error = f"http_{timeline.status}"
            self._tell(timeline, self._observers)

    @staticmethod
    def _tell(timeline: Timeline, observers: Sequence[Observer]) -> None:
        for observer in observers:
            try:
                observer(timeline)
            except Exception:
                logger.exception("request %s cannot be told of", timeline.request_id)


def _timeline(scope: Scope) -> Timeline:
    given = {name: value for name, value in scope["headers"] if name in _READ}
    timeline = Timeline(_id(given.get(_REQUEST_ID, b"")), scope["method"], scope["path"])
    timeline.traceparent = given.get(_TRACEPARENT, b"").decode("latin-1")
    timeline.tracestate = given.get(_TRACESTATE, b"").decode("latin-1")
    return timeline


def _id(given: bytes) -> str:
    """The client's own, if it is one to be written into a header and a log."""
    given = given[:_MAX_ID]
    return given.decode() if given and all(32 < byte < 127 for byte in given) else f"rerank-{uuid.uuid4().hex}"
