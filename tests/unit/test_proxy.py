"""What Serve's proxy obeys behind our back: a client's headers that would end a request in ways we cannot see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.proxy import JsonErrors, OurHeaders, middlewares

Headers = list[tuple[bytes, bytes]]


async def _seen(headers: Headers) -> Headers:
    """The headers that reach the application."""
    seen: list[Headers] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
        seen.append(scope["headers"])

    scope = {"type": "http", "headers": headers}
    await OurHeaders(app)(scope, _receive, _drop)
    assert scope["headers"] == headers  # the proxy's own are not changed under its hands
    return seen[0]


async def _receive() -> Any:
    raise AssertionError("nothing is read here")


async def _drop(message: Any) -> None:
    pass


async def test_rays_timeout_becomes_ours() -> None:
    """Ray would answer 408 in plain text; ours gives a partial answer, or 504."""
    kept = (b"content-type", b"application/json")
    assert await _seen([kept, (b"x-request-timeout-seconds", b"2")]) == [kept, (b"x-reranker-timeout-s", b"2")]


async def test_work_of_a_client_that_is_gone_is_always_cancelled() -> None:
    kept = (b"x-request-id", b"1")
    assert await _seen([(b"x-request-disconnect-disabled", b"?1"), kept]) == [kept]


async def test_other_headers_pass_untouched() -> None:
    headers = [(b"x-reranker-timeout-s", b"3"), (b"x-request-id", b"7"), (b"accept", b"*/*")]
    assert await _seen(headers) == headers


async def test_what_has_no_headers_passes() -> None:
    """Start and end of the proxy are ASGI messages too."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
        seen.append(scope)

    await OurHeaders(app)({"type": "lifespan"}, _receive, _drop)
    assert seen == [{"type": "lifespan"}]


async def _sent(status: int, content_type: bytes, *parts: bytes) -> list[Any]:
    """The messages that reach the client when the application answers so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts, start=1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await JsonErrors(app)({"type": "http", "headers": []}, _receive, send)
    return sent


@pytest.mark.parametrize(
    ("status", "becomes", "error_type"),
    [(404, 503, "not_ready"), (503, 503, "not_ready"), (500, 500, "http_500"), (408, 408, "http_408")],
)
async def test_plain_text_errors_become_json(status: int, becomes: int, error_type: str) -> None:
    """Several clients break on an answer that is not JSON."""
    start, body = await _sent(status, b"text/plain", b"no ", b"route")
    assert start["status"] == becomes
    assert json.loads(body["body"])["error_type"] == error_type
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


@pytest.mark.parametrize(
    ("status", "content_type"), [(200, b"text/html"), (404, b"application/json"), (429, b"application/json")]
)
async def test_everything_else_passes_as_it_comes(status: int, content_type: bytes) -> None:
    start, *parts = await _sent(status, content_type, b"one", b"two")
    assert (start["status"], start["headers"]) == (status, [(b"content-type", content_type)])
    assert [part["body"] for part in parts] == [b"one", b"two"]


def test_proxy_gets_both() -> None:
    kinds: list[object] = [middleware.cls for middleware in middlewares()]
    assert kinds == [OurHeaders, JsonErrors]
