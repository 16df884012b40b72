"""The playground is reached through the service's own door, and cannot be reached around it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.http.playground import PageRequest, ResponseHead
from deployments.ui.app import stream
from reranker.errors import PlaygroundUnavailableError
from tests.unit.doors import KEYS, WordBackend, door, visitor

PAGE: list[ResponseHead | bytes | Exception] = [
    ResponseHead(200, ((b"content-type", b"text/html"), (b"connection", b"x"))),
    b"<p>",
    b"hi",
]


async def test_without_a_playground_its_paths_do_not_exist() -> None:
    async with visitor(door(WordBackend())) as client:
        for path in ("/ui/", "/ui/config"):
            response = await client.get(path)
            assert response.status_code == 404
            assert response.json()["error_type"] == "http_404"
            assert "without the playground" in response.json()["message"]


async def test_visits_are_passed_on_and_their_answers_back() -> None:
    backend = WordBackend()
    backend.page = PAGE
    async with visitor(door(backend, keys=KEYS)) as client:
        headers = {"authorization": "Bearer secret", "cookie": "a=b", "x-forwarded-prefix": "/x"}
        response = await client.post("/ui/gradio_api/queue/join?a=1", content=b"{}", headers=headers)
    assert (response.status_code, response.text) == (200, "<p>hi")
    assert response.headers["content-type"] == "text/html"
    assert "connection" not in response.headers
    [sent] = backend.page_requests
    assert (sent.scope["method"], sent.scope["query_string"], sent.body) == ("POST", b"a=1", b"{}")
    assert sent.scope["path"] == "/x/ui/gradio_api/queue/join"
    assert (b"x-forwarded-prefix", b"/x") in sent.scope["headers"]
    passed = {name for name, _ in sent.scope["headers"]}
    assert not {b"authorization", b"cookie"} & passed, "no business of the playground's"


@pytest.mark.parametrize(("path", "goal"), [("/ui", "ui/"), ("/ui?a=b", "ui/?a=b")])
async def test_the_page_is_at_a_path_with_a_slash_wherever_a_proxy_puts_it(path: str, goal: str) -> None:
    """The page's links are relative, and so is the way to it."""
    backend = WordBackend()
    backend.page = PAGE
    async with visitor(door(backend)) as client:
        response = await client.get(path)
        assert (response.status_code, response.headers["location"]) == (307, goal)
        assert (await client.get("/ui/")).status_code == 200
    assert [sent.scope["path"] for sent in backend.page_requests] == ["/ui/"]


async def test_a_visitor_cannot_send_more_than_a_list() -> None:
    """These paths need no key."""
    backend = WordBackend()
    async with visitor(door(backend)) as client:
        response = await client.post("/ui/gradio_api/queue/join", content=b"x" * (8 * 2**20 + 1))
    assert response.status_code == 413
    assert not backend.page_requests


async def test_a_browser_that_is_early_comes_again_by_itself() -> None:
    backend = WordBackend()
    backend.page = [PlaygroundUnavailableError()]
    async with visitor(door(backend)) as client:
        response = await client.get("/ui/", headers={"accept": "text/html,*/*"})
        assert (response.status_code, response.headers["refresh"], response.headers["retry-after"]) == (503, "2", "2")
        assert "refresh" not in (await client.get("/ui/config", headers={"accept": "application/json"})).headers


GRADIO_S_OWN = [
    ("POST", "/ui/gradio_api/upload"), ("GET", "/ui/gradio_api/file=/etc/passwd"), ("GET", "/ui/gradio_api/info"),
    ("GET", "/ui/gradio_api/proxy=http://127.0.0.1/"), ("POST", "/ui/gradio_api/call/rank"), ("GET", "/ui/monitoring"),
    ("POST", "/ui/gradio_api/component_server"), ("POST", "/ui/login"),
    ("GET", "/ui/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), ("POST", "/ui/"), ("GET", "/ui/gradio_api/queue/join"),
    ("GET", "/ui/gradio_api/stream/a/b/c/playlist.m3u8"),
    ("POST", "/ui/gradio_api/run/predict"), ("GET", "/ui/gradio_api/deep_link"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), GRADIO_S_OWN)
async def test_of_gradio_s_paths_only_those_the_page_uses_exist(method: str, path: str) -> None:
    """No key is needed here: an upload would fill a disk, a proxy would reach what only we reach."""
    backend = WordBackend()
    backend.page = PAGE
    async with visitor(door(backend)) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.json()["error_type"]) == (404, "http_404")
    assert not backend.page_requests


async def _page(path: str, **headers: str) -> tuple[httpx.Response, PageRequest]:
    backend = WordBackend()
    backend.page = [ResponseHead(200, ((b"cache-control", b"no-store"),)), b"page"]
    async with visitor(door(backend)) as client:
        response = await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    [sent] = backend.page_requests
    return response, sent


async def test_the_page_may_ask_no_other_host() -> None:
    response, _ = await _page("/ui/")
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["cache-control"] == "no-store"


async def test_files_that_never_change_are_kept_by_browsers() -> None:
    response, _ = await _page("/ui/assets/Index-DkT9a2Xz.js")
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("prefix", "seen"), [("/a/b", "/a/b|/a/b/ui/"), ("//evil.example", "|/ui/"), ('/"><x', "|/ui/")]
)
async def test_a_proxy_s_prefix_is_in_the_urls_that_are_made(prefix: str, seen: str) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": f"{scope['root_path']}|{scope['path']}".encode()})

    _, sent = await _page("/ui/", x_forwarded_prefix=prefix)
    assert [part async for part in stream(echo, sent)][1] == seen.encode()


REQUEST = PageRequest({"type": "http"}, b"body")


async def test_an_answer_comes_in_parts_as_they_are_made() -> None:
    """Events must not wait for those that follow."""
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"body"
        await send({"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await send({"type": "http.response.body", "body": b"2", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"3"})

    parts = stream(app, REQUEST)
    assert await anext(parts) == ResponseHead(201, ((b"a", b"b"),))
    assert await anext(parts) == b"12"
    go_on.set()
    assert [part async for part in parts] == [b"3"]


async def test_an_application_hears_of_a_client_that_hangs_up() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        heard.extend([await receive(), await receive()])

    parts: AsyncIterator[ResponseHead | bytes] = stream(app, REQUEST)
    await anext(parts)
    await parts.aclose()  # type: ignore[attr-defined]  # a generator
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


async def test_a_failure_of_the_application_is_not_an_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await anext(stream(app, REQUEST))


def test_neither_the_ingress_nor_the_playground_s_start_loads_gradio() -> None:
    """190 MiB and 2.7 s, which only a visitor is to cost."""
    program = "import sys, deployments.ingress, deployments.ui.app; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
