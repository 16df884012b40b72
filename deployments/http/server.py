"""The ingress's own HTTP server, on an address that all ingress replicas of a node share, with limits uvicorn lacks.

Why not Serve's proxy: docs/decisions/0006-no-proxy.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.http import SERVICE_HEADER
from deployments.http.address import bound_socket, local_url, shown_address
from deployments.http.responses import error_response
from reranker import errors

if TYPE_CHECKING:  # Ray takes a second to import, and tests of this do without
    from ray.serve.config import HTTPOptions

_BACKLOG = 2_048
_LINGER_S = 2
"""How long a draining server keeps idle connections open. Who sends a request in that time is told that the connection
ends; a request that meets a closed connection is an error for its client."""
_SIBLING_TIMEOUT_S = 5
_KEEP_ALIVE_S = 90
"""Longer than clients keep an unused connection (httpx 5 s, load balancers mostly 60 s), so that they end it."""


class Listener:
    """Serves an ASGI application from this process's event loop."""

    def __init__(self, app: ASGIApp, options: HTTPOptions, listening: socket.socket) -> None:
        """Take connections from the moment the event loop runs; `options` say TLS, `listening` is from `listen`."""
        self._listening, self.draining = listening, False
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=max(_KEEP_ALIVE_S, options.keep_alive_timeout_s),
            ssl_keyfile=options.ssl_keyfile,
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile_password=options.ssl_keyfile_password,
            ssl_ca_certs=options.ssl_ca_certs,
        )
        self._server = uvicorn.Server(config)
        # Signals are Ray's here.
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listening]))

    @property
    def healthy(self) -> bool:
        return not self._serving.done()

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, end the open ones as each has its answer, and cut those left after `timeout_s`."""
        self.draining = True
        if self._server.started:
            await self._close_address()
        if self._server.server_state.connections:
            await asyncio.sleep(_LINGER_S)
        self._server.config.timeout_graceful_shutdown = math.ceil(timeout_s)
        self._server.should_exit = True
        await self._serving

    async def _close_address(self) -> None:
        """Stop listening, but accept the connections that wait for it: closing would reset them."""
        waiting: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(self._listening.accept()[0])
        for one in self._server.servers:
            one.close()
        taking = [asyncio.ensure_future(self._take(connection)) for connection in waiting]
        if taking:
            await asyncio.wait(taking, timeout=_LINGER_S)  # a client may be slow with its TLS

    async def _take(self, connection: socket.socket) -> None:
        loop, server = asyncio.get_running_loop(), self._server
        protocol = LimitedProtocol(server.config, server.server_state, server.lifespan.state, loop)
        with contextlib.suppress(OSError):  # it has hung up meanwhile
            await loop.connect_accepted_socket(lambda: protocol, connection, ssl=server.config.ssl)


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol for one connection, with limits on what no ASGI application sees.

    That is: a head that is slow or too large, a body that nobody waits for, and what is not HTTP. In Kubernetes the
    gateway sees to these first; a service that is reached directly has only this.
    """

    max_head_bytes = 128 * 1024
    """Of a head that is not complete; of others, `requests.py` sees to `limits.max_header_bytes`."""
    head_timeout_s = 30.0
    """From the connection, or a request's first byte, to the end of the head."""
    rest_timeout_s = 30.0
    """For the rest of a body whose answer is out already: many clients read it only once they have sent all."""

    _head_bytes = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(errors.HeadersTooLargeError("headers", self._head_bytes, self.max_head_bytes, "bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._set_timer(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._set_timer(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body:
            self._set_timer(self.rest_timeout_s)

    def send_400_response(self, msg: str) -> None:
        """Say so in JSON where uvicorn says it in plain text."""
        self._refuse(errors.MalformedRequestError())

    def _await_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._set_timer(self.head_timeout_s, errors.SlowRequestError(self.head_timeout_s, "head"))

    def _set_timer(self, seconds: float | None, error: errors.RerankerError | None = None) -> None:
        """Refuse in so many seconds, instead of when it was said before. None: not at all."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._refuse, error)

    def _refuse(self, error: errors.RerankerError | None) -> None:
        self._set_timer(None)
        if self.transport.is_closing():
            return
        if error is not None:
            response = error_response(error)
            headers = [*response.raw_headers, (b"connection", b"close")]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[response.status_code] + lines + b"\r\n" + response.body)
        self.transport.close()


def listen(options: HTTPOptions, service: str) -> socket.socket:
    """Listen together with the other replicas of this service (see `SERVICE_HEADER`) here, and with nobody else."""
    host, port = options.host or "127.0.0.1", options.port
    try:
        bound_socket(host, port).close()
    except OSError as error:
        if not _is_ours(local_url(host, port, tls=bool(options.ssl_certfile)), service):
            said = f"cannot listen on {shown_address(host, port)} ({error.strerror})"
            raise errors.ConfigurationError(said) from None
    listening = bound_socket(host, port, shared=True)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def _is_ours(url: str, service: str) -> bool:
    try:
        answer = httpx.get(f"{url}/health", timeout=_SIBLING_TIMEOUT_S, verify=False)  # noqa: S501 - no secret is told
    except httpx.HTTPError:
        return False
    return bool(answer.headers.get(SERVICE_HEADER) == service)
