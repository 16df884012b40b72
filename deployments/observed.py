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

from reranker.timeline import Timeline

logger = logging.getLogger(f"ray.serve.{__name__}")  # Serve shows what is below its own logger

Observer: TypeAlias = Callable[[Timeline], None]
"""Told of each request that has ended, of every path."""
REQUEST_ID_HEADER = "x-request-id"
_MAX_ID = 128
_CLIENT_GONE, _CLIENT_GONE_CODE = 499, "client_gone"


class Observed:
    """ASGI middleware. Leaves `timeline`, a `reranker.timeline.Timeline`, in the request's state."""

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
        timeline = Timeline(_request_id(scope), scope["method"], scope["path"])
        scope = {**scope, "state": {**scope.get("state", {}), "timeline": timeline}}

        async def noted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                timeline.status = message["status"]
                if timeline.status != _CLIENT_GONE:
                    self._tell(timeline, self._counting)
                request_id = (REQUEST_ID_HEADER.encode(), timeline.request_id.encode("latin-1"))
                message = {**message, "headers": [*message.get("headers", ()), request_id]}
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        except asyncio.CancelledError:
            if not timeline.status:
                timeline.status = _CLIENT_GONE
            raise
        finally:
            timeline.end()
            if not timeline.status or timeline.status == _CLIENT_GONE:
                timeline.status, timeline.error = _CLIENT_GONE, timeline.error or _CLIENT_GONE_CODE
                self._tell(timeline, self._counting)
            self._tell(timeline, self._observers)

    @staticmethod
    def _tell(timeline: Timeline, observers: Sequence[Observer]) -> None:
        for observer in observers:
            try:
                observer(timeline)
            except Exception:
                logger.exception("request %s cannot be told of", timeline.request_id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it is one to be written into a header and a log."""
    wanted = REQUEST_ID_HEADER.encode()
    given = next((value for name, value in scope["headers"] if name.lower() == wanted), b"")[:_MAX_ID]
    return given.decode() if given and all(32 < byte < 127 for byte in given) else f"rerank-{uuid.uuid4().hex}"
