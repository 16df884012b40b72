"""Heads that are too slow or too large, and bodies that never end, over a real connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from deployments.http.server import LimitedProtocol


class Hasty(LimitedProtocol):
    max_head_bytes = 10_000
    head_timeout_s = 0.1
    rest_timeout_s = 0.1


async def _app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
    """Answers before it has read the body."""
    if scope["type"] == "http":
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


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"NO HTTP\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_gets_a_400_in_json(port: int, sent: bytes) -> None:
    status, body = await _talk(port, sent)
    assert status.startswith("HTTP/1.1 400")
    assert json.loads(body)["message"] == "this is not an HTTP request"


async def test_body_that_was_answered_already_may_end_but_not_go_on_for_ever(port: int) -> None:
    status, body = await _talk(port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n", b"b" * 1_000)
    assert (status, body) == ("HTTP/1.1 200 OK", b"ok")


async def test_connection_is_kept_for_the_next_request(port: int) -> None:
    request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(request)
        assert b"200 OK" in await reader.readuntil(b"ok")
    writer.close()
    await writer.wait_closed()
