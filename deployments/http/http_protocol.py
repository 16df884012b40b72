"""What no ASGI application sees: a head that is too slow or too large, a body that nobody waits for, what is no HTTP.

Uvicorn has no limit on any of these, and no setting for one.
"""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from reranker.dialects.envelope import Problem, universal

_TOO_LARGE = Problem("the request's head is too large", "headers_too_large", 431)
_TOO_SLOW = Problem("the request's head did not arrive in time", "slow_request", 408)
_NO_HTTP = Problem("this is not an HTTP request", "http_400", 400)


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol for one connection, with limits."""

    max_head_bytes = 128 * 1024
    """While the head is not complete; `limits.max_header_bytes` is exact, and holds for those that are."""
    head_timeout_s = 30.0
    """From the connection, or a request's first byte, to the end of its head."""
    rest_timeout_s = 30.0
    """For the rest of a body that was answered before it was all there: a client that sends before it reads gets its
    answer, and one that never ends does not keep the connection."""

    _head_bytes = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Wait for a request."""
        super().connection_made(transport)
        self._set_timer(self.head_timeout_s, _TOO_SLOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._unset_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the head's end."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request's first byte is there."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._set_timer(self.head_timeout_s, _TOO_SLOW)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._unset_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._unset_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._set_timer(self.rest_timeout_s, None)

    def send_400_response(self, msg: str) -> None:
        """Say so in JSON where uvicorn says it in plain text."""
        self._refuse(_NO_HTTP)

    def _refuse(self, problem: Problem | None) -> None:
        self._unset_timer()
        if self.transport.is_closing():
            return
        if problem is not None:
            content = orjson.dumps(universal(problem))
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[problem.status] + head + content)
        self.transport.close()

    def _set_timer(self, seconds: float, problem: Problem | None) -> None:
        self._unset_timer()
        self._timer = self.loop.call_later(seconds, self._refuse, problem)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
