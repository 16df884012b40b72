"""The ingress's own HTTP server, on an address that all ingress replicas of a node share, with limits uvicorn lacks.

Why not Serve's proxy: docs/decisions/0006-no-proxy.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from typing import TYPE_CHECKING

import httptools
import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.http import SERVICE_HEADER
from deployments.http.address import bound_socket, listeners, local_url, shown_address
from deployments.http.responses import error_response
from reranker import errors

if TYPE_CHECKING:  # Ray takes a second to import, and tests of this do without
    from ray.serve.config import HTTPOptions

_BACKLOG = 2_048
_LINGER_S = 2
"""How long a draining server keeps idle connections open. Who sends a request in that time is told that the connection
ends; a request that meets a closed connection is an error for its client."""
_SIBLING_TIMEOUT_S, _SIBLING_ASKED = 5, 3
_TINY_BYTES = 64
_NO_LINGER = struct.pack("ii", 1, 0)
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

    async def drain(self, timeout_s: float, notice_s: float = 0) -> None:
        """Take no more connections, end the open ones as each has its answer, and cut those left after `timeout_s`.

        Before, for `notice_s`, take requests as ever while `draining` tells who asks: a load balancer elsewhere sends
        them until it has noticed, and would meet a closed port. Not where another replica has the address as well.
        """
        if shared := listeners(self._listening.getsockname()[1]) > 1:
            await self._close_address()
        self.draining = True
        if notice_s and not shared:
            await asyncio.sleep(notice_s)
        if self._server.started and not shared:
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

    That is: a head or trailers that are slow or too large, a body that nobody waits for, a connection that begins no
    request, and what is not HTTP. In Kubernetes the gateway sees to these first; who is reached directly has only
    this. No connection is closed while its client still sends: the system would take back an answer that it has not
    read.
    """

    max_head_bytes = 128 * 1024
    """Of a head that is not complete, and of trailers. Of other heads, `requests.py` sees to `max_header_bytes`."""
    head_timeout_s = 30.0
    """From the connection, or a request's first byte, to the end of the head."""
    rest_timeout_s = 30.0
    """For the rest of a body whose answer is out already: many clients read it only once they have sent all."""
    quiet_s = 2.0
    """After an answer with which the connection ends: when nothing has come for so long, its client has read it."""
    unread_s = 60.0
    """For a client to read what waits for it."""
    max_rest_bytes = 256 * 2**20
    """Of what comes after an answer."""
    max_pipelined = 32
    """Requests on one connection that wait for the answer to another."""
    max_tiny_chunks = 20_000
    """Of a body, that are smaller than `_TINY_BYTES` on average: each takes as long as a large one."""

    _head_bytes = _rest_bytes = _chunks = _body_bytes = 0
    _closes_s = 0.0
    _in_head, _in_message, _asked, _lingers, _head_again = True, False, False, False, False
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        self.resume_writing()
        super().connection_lost(exc)
        # Else all refer to each other, and what came of bodies is kept until Python looks for such.
        self.cycle = None  # type: ignore[assignment]  # as uvicorn's own, at first
        self.pipeline.clear()

    def pause_writing(self) -> None:
        """The client does not read; closing would wait for it as well."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.unread_s, self._reset)

    def resume_writing(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._reset()

    def _reset(self) -> None:
        """End a connection whose client does not read; else the kernel would go on to offer it what it has."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count what is no body: of a head, around chunks, in trailers; and what nobody reads any more."""
        if self._lingers:
            self._count_rest(data)
            return
        body_bytes = self._body_bytes
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._in_message and self._body_bytes == body_bytes:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse(errors.HeadersTooLargeError("headers", self._head_bytes, self.max_head_bytes, "bytes"))
        elif self._in_message and not self._in_head:
            self._head_bytes = 0
            if self.cycle.response_complete:
                self._count_rest(data)
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._set_timer(self.head_timeout_s)  # uvicorn's own timer ended with whatever came, a lone CRLF too

    def _parse(self, data: bytes) -> None:
        """Have it parsed, ignoring an upgrade that is offered, as who does not take one has to (RFC 9110, 7.8).

        Java's HttpClient offers h2c with each request. The parser ends at such a head, and drops the body; another one
        goes on behind it, from a head of our own that says how the body comes.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                framing = (b"content-length", b"transfer-encoding")
                lines = b"".join(b"%s: %s\r\n" % line for line in self.headers if line[0] in framing)
                head = b"%s / HTTP/%s\r\n" % (self.parser.get_method(), self.parser.get_http_version().encode())
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._head_again = True
                self.parser.feed_data(head + lines + b"\r\n")
                self._head_again = False
                data = data[offer.args[0] :]
            else:
                return

    def on_message_begin(self) -> None:
        if self._head_again:
            return
        super().on_message_begin()
        self._in_message, self._asked = True, False
        self._rest_bytes = self._chunks = self._body_bytes = 0
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; a trailer is none."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_again:
            return
        self._in_head, self._head_bytes = False, 0
        self._set_timer(None)
        if len(self.pipeline) >= self.max_pipelined:  # one packet may hold thousands
            raise ValueError("too many requests before the answer to the first")
        version = self.parser.get_http_version()
        if version == "1.1" and not any(name == b"host" for name, _ in self.headers):
            raise ValueError("a request of HTTP/1.1 without a Host")  # RFC 9112, 3.2
        self.expect_100_continue &= version != "1.0"  # whose clients know no such answer
        super().on_headers_complete()
        self._asked = True
        self.cycle.transport = _AnswersTransport(self)  # type: ignore[assignment]  # what it uses of one

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there."""
        self._chunks += 1
        self._body_bytes += len(body)
        if self._chunks > self.max_tiny_chunks and self._body_bytes < self._chunks * _TINY_BYTES:
            self._refuse(errors.RequestTooLargeError("body", self._chunks, self.max_tiny_chunks, "tiny chunks"))
            raise ValueError("too many tiny chunks")  # ends the parser's work on this packet
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # its body is still to come: see `_parse`
            return
        self._in_message = False
        self._set_timer(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and self.cycle.more_body:
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

    def linger(self) -> None:
        """Close the connection once its client has sent all that it wants to, within limits; what comes is dropped."""
        if not self._in_message or self.transport.is_closing():
            self.transport.close()
            return
        self._lingers, self._closes_s = True, self.loop.time() + self.rest_timeout_s
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_timer(self.quiet_s)

    def _count_rest(self, data: bytes) -> None:
        """Drop what comes after the answer, within limits."""
        self._rest_bytes += len(data)
        left_s = self._closes_s - self.loop.time() if self._lingers else math.inf
        if self._rest_bytes > self.max_rest_bytes or left_s <= 0:
            self.transport.close()
        elif self._lingers:
            self._set_timer(min(self.quiet_s, left_s))

    def _refuse(self, error: errors.RerankerError | None) -> None:
        """Close the connection, with an answer if the request has none yet."""
        if self._lingers and error is not None:
            return
        self._set_timer(None)
        if (
            error is None
            or (self._asked and self.cycle.response_started)
            or self._lingers
            or self.transport.is_closing()
        ):
            self.transport.close()
            return
        response = error_response(error)
        headers = [*response.raw_headers, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[response.status_code] + lines + b"\r\n" + response.body)
        if self._asked:  # whoever waits for the body is told that no more comes
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._in_message = True  # more of the same is on its way
        self.linger()


class _AnswersTransport:
    """The transport as one answer sees it: its end lets the client finish sending."""

    def __init__(self, protocol: LimitedProtocol) -> None:
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing
        self.close = protocol.linger


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
    for _ in range(_SIBLING_ASKED):
        try:
            answer = httpx.get(f"{url}/health", timeout=_SIBLING_TIMEOUT_S, verify=False)  # noqa: S501 - no secret is told
        except httpx.TimeoutException:  # it hangs, and will be killed (`Watchdog`); or another one answers
            continue
        except httpx.HTTPError:
            return False
        return bool(answer.headers.get(SERVICE_HEADER) == service)
    return False
