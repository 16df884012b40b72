"""The ingress's own HTTP server: on the service's address, which all ingress replicas of a node share.

Not Serve's proxy: that is a second process in Python that every request passes, with a call to the replica, one back
for the body, and a stream of messages for the answer. Figures: docs/decisions/0006-no-proxy.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.http_protocol import LimitedProtocol
from deployments.http.replies import refusal
from reranker.errors import ConfigurationError, NotReadyError

if TYPE_CHECKING:  # Ray takes a second to import, and tests of this do without
    from ray.serve.config import HTTPOptions

SERVICE_HEADER = "x-reranker-service"
"""Says on /health which service it is, so that no other one comes to listen on the same port."""
_BACKLOG = 2_048
_LINGER_S = 2
"""So long a draining server waits for the clients of idle connections to ask once more, and hear that they end."""
_SIBLING_TIMEOUT_S = 5
_KEEP_ALIVE_S = 90
"""Longer than clients keep an unused connection (httpx 5 s, load balancers mostly 60 s), so that they end it."""


class Listener:
    """Serves an ASGI application from this process's event loop."""

    def __init__(self, app: ASGIApp, options: HTTPOptions, listening: socket.socket, service: str) -> None:
        """Take connections from the moment the event loop runs.

        Args:
            app: The application, within `CancelledByClient`.
            options: Serve's; of them those of TLS.
            listening: What `listen` gave.
            service: Which service this is; see `SERVICE_HEADER`.
        """
        self._ending = False
        self._service = service.encode()
        self._listening = listening
        config = uvicorn.Config(
            self._marked(app),
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
        self._server = _Server(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listening]))

    @property
    def healthy(self) -> bool:
        """False once the server has ended."""
        return not self._serving.done()

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, and end the open ones as each has its answer.

        Args:
            timeout_s: What is open then is cut.
        """
        self._ending = True
        if self._server.started:
            await self._close_address()
        if self._server.server_state.connections:
            await asyncio.sleep(_LINGER_S)
        self._server.config.timeout_graceful_shutdown = math.ceil(timeout_s)
        self._server.should_exit = True
        await self._serving

    async def _close_address(self) -> None:
        """Listen no more, but take the connections that wait to be accepted: closing would reset them."""
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

    def _marked(self, app: ASGIApp) -> ASGIApp:
        """Say on /health who we are, and once we are ending, that a connection ends with its answer."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def marked_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    more = [(b"connection", b"close")] if self._ending else []
                    if scope["path"] == "/health":
                        more.append((SERVICE_HEADER.encode(), self._service))
                    message = {**message, "headers": [*message.get("headers", ()), *more]}
                await send(message)

            await app(scope, receive, marked_send)

        return wrapped


class CancelledByClient:
    """ASGI middleware: ends what runs for a client that has hung up, and with it the work in the engines."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        all_there = asyncio.Event()

        async def watched() -> Message:
            if all_there.is_set():  # nobody reads on but the one below
                await asyncio.Event().wait()
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                all_there.set()
            return message

        async def hung_up() -> None:
            await all_there.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        started = False

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        answering = asyncio.ensure_future(self._app(scope, watched, noted_send))
        watching = asyncio.ensure_future(hung_up())
        try:
            await asyncio.wait([answering, watching], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # by the server, which ends and has waited long enough
            if not started:
                await refusal(NotReadyError())(scope, receive, send)
            raise
        finally:
            watching.cancel()
            if not answering.done():
                answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they are Ray's here."""
        yield


def listen(options: HTTPOptions, service: str) -> socket.socket:
    """Listen together with the other replicas of this service on this machine, and with nobody else.

    Args:
        options: Serve's; of them host, port, and whether there is TLS.
        service: Which service this is; see `SERVICE_HEADER`.

    Raises:
        ConfigurationError: Somebody else listens there, or nobody can.
    """
    host, port = options.host or "127.0.0.1", options.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
            scheme = "https" if options.ssl_certfile else "http"
            if not _is_ours(f"{scheme}://{f'[{local}]' if ':' in local else local}:{port}", service):
                raise ConfigurationError(f"cannot listen on {host}:{port} ({error.strerror})") from None
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def _is_ours(url: str, service: str) -> bool:
    try:
        answer = httpx.get(f"{url}/health", timeout=_SIBLING_TIMEOUT_S, verify=False)  # noqa: S501 - no secret is told
    except httpx.HTTPError:
        return False
    return bool(answer.headers.get(SERVICE_HEADER) == service)
