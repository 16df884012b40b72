"""Heads that are too slow or too large, and bodies that never end, over a real connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from deployments.http.responses import reply
from deployments.http.server import LimitedProtocol


class Hasty(LimitedProtocol):
    max_head_bytes = 10_000
    head_timeout_s = 0.3
    rest_timeout_s = 0.5
    quiet_s = 0.1
    unread_s = 0.2
    max_rest_bytes = 10_000_000
    max_tiny_chunks = 1_000


HEARD: list[list[tuple[bytes, bytes]]] = []
"""The headers of each request, as they are now."""


async def _app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
    """Answers before it has read the body, but for one path."""
    if scope["type"] == "http":
        HEARD.append(scope["headers"])
        if scope["path"] == "/echo":
            body, more = scope["method"].encode() + b" ", True
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": body})
            return
        if scope["path"] == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
            await send({"type": "http.response.body", "body": b"a" * 50_000_000})
            return
        while scope["path"] == "/read" and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(_app, port=0, http=Hasty, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await server.shutdown()


async def _talk(port: int, *parts: bytes) -> tuple[str, bytes]:
    """Send, and give the status line and the body of what comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.decode().partition("\r\n")[0], body


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: "])
async def test_head_that_does_not_come_to_its_end_is_closed_with_408(port: int, sent: bytes) -> None:
    status, body = await _talk(port, sent)
    assert status.startswith("HTTP/1.1 408")
    assert json.loads(body)["error_type"] == "slow_request"


@pytest.mark.parametrize("sent", [b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000])
async def test_head_that_grows_without_end_is_closed_with_431(port: int, sent: bytes) -> None:
    status, body = await _talk(port, sent)
    assert status.startswith("HTTP/1.1 431")
    assert json.loads(body)["error_type"] == "headers_too_large"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"NO HTTP\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_400_in_json(port: int, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    status, body = await _talk(port, sent)
    assert status.startswith("HTTP/1.1 400")
    assert json.loads(body)["message"] == "this is not an HTTP request"
    assert "Traceback" not in caplog.text


async def test_what_is_no_http_after_an_answer_gets_a_400_as_well(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await reader.readuntil(b"ok")
    writer.write(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_body_that_was_answered_already_may_end_but_not_go_on_for_ever(port: int) -> None:
    status, body = await _talk(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n", b"b" * 1_000)
    assert (status, body) == ("HTTP/1.1 200 OK", b"ok")


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n"


@pytest.mark.parametrize("trailers", [b"a: b\r\n" * 10_000, b"a: " + b"b" * 60_000, b";" * 60_000])
async def test_trailers_are_limited_as_a_head_is(port: int, trailers: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CHUNKED.replace(b"POST /", b"POST /read"))
    for start in range(0, len(trailers), 1_000):
        writer.write(trailers[start : start + 1_000])
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        answer = await reader.read()  # to the end of the connection
    assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    writer.close()


async def test_trailer_is_no_header(port: int) -> None:
    HEARD.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CHUNKED + b"authorization: Bearer a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
    for _ in range(2):
        await reader.readuntil(b"ok")
    assert [name for heard in HEARD for name, _ in heard] == [b"host", b"transfer-encoding", b"host"]
    writer.close()


async def test_body_of_tiny_chunks_is_refused(port: int) -> None:
    status, body = await _talk(
        port, b"POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nb\r\n" * 2_000
    )
    assert status.startswith("HTTP/1.1 413")
    assert json.loads(body)["error_type"] == "request_too_large"


async def test_pipeline_has_a_length(port: int) -> None:
    """A packet may hold thousands of requests, which would all be parsed before anybody else has a turn."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 10_000)
    async with asyncio.timeout(10):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 200") <= 40
    assert b"HTTP/1.1 400" in answers
    writer.close()


@pytest.mark.parametrize("close", [b"connection: close\r\n", b""])
async def test_answer_that_comes_early_is_read_by_a_client_that_sends_to_the_end(port: int, close: bytes) -> None:
    """Closing with bytes unread would reset the connection, and take the answer from the client."""
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\n" + close + b"content-length: 5000000\r\n\r\n")
        for _ in range(50):
            writer.write(b"b" * 100_000)
            await writer.drain()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await writer.wait_closed()


async def test_what_comes_after_an_answer_has_a_limit(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n")

    async def send() -> None:
        for _ in range(1_000):
            writer.write(b"b" * 100_000)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send()
    writer.close()


@pytest.mark.parametrize("sent", [b"\r\n", b"\n", b"\r\n" * 100])
async def test_connection_that_begins_no_request_is_closed(port: int, sent: bytes) -> None:
    """Uvicorn's own timer of a kept connection ends with whatever comes on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await reader.readuntil(b"ok")
    writer.write(sent)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_connection_is_kept_for_the_next_request(port: int) -> None:
    request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(request)
        assert b"200 OK" in await reader.readuntil(b"ok")
    writer.close()
    await writer.wait_closed()


async def test_client_that_never_reads_is_given_up(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
    writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    await asyncio.sleep(1)
    with pytest.raises(ConnectionResetError):  # and not its end behind all that it has not read
        await asyncio.wait_for(reader.readexactly(50_000_000), 10)
    writer.close()


async def test_large_answer_is_written_as_its_client_reads_it() -> None:
    """What waits is the application's, and counts in hand; one write of all of it would end the request at once."""
    content = {"documents": ["x" * 300_000, "y"]}
    written: list[bytes] = []

    async def send(message: Any) -> None:
        written.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    await reply(content)({"type": "http"}, receive, send)
    assert json.loads(b"".join(written)) == content
    assert max(map(len, written)) <= 64 * 1024


_OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
_JAVA = b"POST /echo HTTP/1.1\r\n" + _OFFER + b"Host: 127.0.0.1\r\nUser-Agent: Java-http-client/17.0\r\n"
_LAST = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (_JAVA + b"Content-Length: 5\r\n\r\n", b"hello"),
        (_JAVA + b"Content-Length: 5\r\n\r\nhello",),
        (_JAVA + b"Content-Length: 5\r\n\r\nhel", b"lo"),
        (_JAVA + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nhel\r\n", b"2;a=b\r\nlo\r\n0\r\nX-T: 1\r\n\r\n"),
        (_JAVA[:30], _JAVA[30:] + b"Content-Length: 5\r\n", b"\r\n", b"hello"),
        (_JAVA.replace(b"h2c", b"websocket") + b"Content-Length: 5\r\n\r\nhello",),
    ],
)
async def test_upgrade_that_is_offered_is_ignored_and_its_body_read(port: int, parts: tuple[bytes, ...]) -> None:
    """Java's HttpClient offers h2c with every request; what follows on its connection is answered as well."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)  # a packet of its own
    async with asyncio.timeout(10):
        first = await reader.readuntil(b"POST hello")
        writer.write(parts[0] if len(parts) == 1 else b"".join(parts))
        again = await reader.readuntil(b"POST hello")
        writer.write(_LAST)
        rest = await reader.read()
    writer.close()
    assert first.startswith(b"HTTP/1.1 200")
    assert again.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b"GET ")


async def test_requests_that_offer_an_upgrade_are_answered_in_their_order_when_sent_at_once(port: int) -> None:
    one = _JAVA + b"Content-Length: 1\r\n\r\n"
    _, rest = await _talk(port, b"".join(one + digit for digit in (b"1", b"2", b"3")) + _LAST)
    assert all(b"POST " + digit in rest for digit in (b"1", b"2", b"3"))
    assert rest.find(b"POST 1") < rest.find(b"POST 2") < rest.find(b"POST 3") < rest.find(b"GET ")


async def test_upgrade_offered_on_a_get_is_ignored(port: int) -> None:
    _, rest = await _talk(port, b"GET /echo HTTP/1.1\r\nHost: a\r\n" + _OFFER + b"\r\n", _LAST)
    assert rest.count(b"GET ") == 2


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_body_is_asked_for_where_the_client_waits_for_it(port: int, value: bytes, version: bytes) -> None:
    """A client of HTTP/1.0 knows no interim answers (RFC 9110, 10.1.1)."""
    head = b"POST /read HTTP/%b\r\nHost: a\r\nConnection: close\r\nExpect: %b\r\nContent-Length: 1\r\n\r\n"
    status, _ = await _talk(port, head % (version, value), b"a")
    assert status == ("HTTP/1.1 100 Continue" if version == b"1.1" else "HTTP/1.1 200 OK")


async def test_request_without_a_host_is_refused(port: int) -> None:
    status, body = await _talk(port, b"GET / HTTP/1.1\r\n\r\n")
    assert status.startswith("HTTP/1.1 400")
    assert json.loads(body)["error_type"] == "http_400"
    status, _ = await _talk(port, b"GET / HTTP/1.0\r\n\r\n")
    assert status == "HTTP/1.1 200 OK"
