"""The playground is reached through the service's own door, and cannot be reached around it."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from deployments.http.playground import GUEST_BYTES, PageAnswer, PageRequest
from deployments.ui.app import respond
from reranker.errors import PlaygroundUnavailableError
from tests.unit.doors import KEYS, WordBackend, door, visitor

PAGE = PageAnswer(200, ((b"content-type", b"text/html"), (b"connection", b"x")), b"<p>hi")
EVENT = "/ui/gradio_api/run/predict"
AS_TEAM = {"authorization": "Bearer team-key"}


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
        headers = AS_TEAM | {"cookie": "a=b", "x-forwarded-prefix": "/x"}
        response = await client.post(EVENT, content=b"{}", headers=headers)
    assert (response.status_code, response.text) == (200, "<p>hi")
    assert response.headers["content-type"] == "text/html"
    assert "connection" not in response.headers
    [sent] = backend.page_requests
    assert (sent.scope["method"], sent.scope["path"], sent.body) == ("POST", EVENT, b"{}")
    passed = {name for name, _ in sent.scope["headers"]}
    assert b"authorization" in passed, "it asks the service with the visitor's key"
    assert b"cookie" not in passed, "no business of the playground's"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_what_is_sent_without_a_known_key_is_refused_unread(headers: dict[str, str]) -> None:
    """It would be unpacked and kept for somebody who may do nothing."""
    backend, sent = WordBackend(), []

    async def body() -> Any:  # Any: pieces
        sent.append(1)
        yield b"x"

    async with visitor(door(backend, keys=KEYS)) as client:
        for path in (EVENT, "/ui/gradio_api/queue/join", "/ui/x", "/ui"):
            response = await client.post(path, content=body(), headers=headers)
            assert (response.status_code, response.json()["error_type"]) == (401, "unauthorized")
        assert (await client.put(EVENT, headers=headers)).status_code == 401
    assert not backend.page_requests


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
    backend = WordBackend()
    async with visitor(door(backend)) as client:
        response = await client.post(EVENT, content=b"x" * (8 * 2**20 + 1))
    assert response.status_code == 413
    assert not backend.page_requests


async def test_what_a_visitor_sends_is_never_unpacked() -> None:
    backend = WordBackend()
    async with visitor(door(backend)) as client:
        response = await client.post(EVENT, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert (response.status_code, response.json()["error_type"]) == (415, "unknown_encoding")
    assert not backend.page_requests


async def test_visitors_together_take_their_own_memory_and_not_the_callers() -> None:
    backend = WordBackend()
    app = door(backend, keys=KEYS)
    going_on = asyncio.Event()

    async def slow_body() -> Any:  # Any: pieces
        yield b"x"
        await going_on.wait()

    size = str(8 * 2**20)
    async with visitor(app, AS_TEAM) as client:
        headers = {"content-length": size}
        held = [asyncio.create_task(client.post(EVENT, content=slow_body(), headers=headers)) for _ in range(2)]
        await asyncio.sleep(0.05)
        refused = await client.post(EVENT, content=b"x", headers=headers)
        assert (refused.status_code, refused.json()["error_type"]) == (503, "playground_unavailable")
        assert refused.headers["retry-after"]
        ranked = await client.post("/v1/rerank", json={"query": "a", "documents": ["x" * (GUEST_BYTES // 8)] * 8})
        assert ranked.status_code == 200
        going_on.set()
        await asyncio.gather(*held)


async def test_the_page_s_files_are_asked_for_once() -> None:
    backend = WordBackend()
    backend.page = PageAnswer(200, ((b"content-type", b"text/javascript"),), b"a" * 200_000)
    async with visitor(door(backend, keys=KEYS)) as client:
        for query in ("", "?a=1", "?a=2"):
            response = await client.get(f"/ui/assets/Index-DkT9a2Xz.js{query}", headers={"user-agent": query})
            assert (len(response.content), response.headers["content-length"]) == (200_000, "200000")
    [sent] = backend.page_requests
    assert sent.scope["query_string"] == b""


async def test_pages_are_passed_on_at_a_rate_and_few_wait_for_it() -> None:
    """Everybody may ask for them, and each takes milliseconds of the playground."""
    backend = WordBackend()
    backend.page = PAGE
    async with visitor(door(backend, keys=KEYS)) as client:
        asking = [asyncio.create_task(client.get(f"/ui/assets/{number}.js")) for number in range(300)]
        await asyncio.sleep(1)
        statuses = [one.result().status_code for one in asking if one.done()]
        assert 80 < len(backend.page_requests) < 110
        assert statuses.count(503) > 50
        assert statuses.count(503) + statuses.count(200) == len(statuses) < 300
        for one in asking:
            one.cancel()


async def test_a_browser_that_is_early_comes_again_by_itself() -> None:
    backend = WordBackend()
    backend.page = PlaygroundUnavailableError()
    async with visitor(door(backend)) as client:
        response = await client.get("/ui/", headers={"accept": "text/html,*/*"})
        assert (response.status_code, response.headers["refresh"], response.headers["retry-after"]) == (503, "2", "2")
        assert "refresh" not in (await client.get("/ui/config", headers={"accept": "application/json"})).headers


GRADIO_S_OWN = [
    ("POST", "/ui/gradio_api/upload"), ("GET", "/ui/gradio_api/file=/etc/passwd"), ("GET", "/ui/gradio_api/info"),
    ("GET", "/ui/gradio_api/proxy=http://127.0.0.1/"), ("POST", "/ui/gradio_api/call/rank"), ("GET", "/ui/monitoring"),
    ("POST", "/ui/gradio_api/component_server"), ("POST", "/ui/login"),
    ("GET", "/ui/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), ("POST", "/ui/"), ("POST", "/ui/gradio_api/queue/join"),
    ("GET", "/ui/gradio_api/queue/data"), ("GET", "/ui/gradio_api/heartbeat/a"), ("POST", "/ui/gradio_api/cancel"),
    ("GET", "/ui/gradio_api/stream/a/b/c/playlist.m3u8"),
    ("POST", "/ui/gradio_api/run/rank"), ("GET", EVENT), ("GET", "/ui/gradio_api/deep_link"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), GRADIO_S_OWN)
async def test_of_gradio_s_paths_only_those_the_page_uses_exist(method: str, path: str) -> None:
    """An upload would fill a disk, a proxy would reach what only we reach, a queue keeps what nobody fetches."""
    backend = WordBackend()
    backend.page = PAGE
    async with visitor(door(backend)) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.json()["error_type"]) == (404, "http_404")
    assert not backend.page_requests


async def _page(path: str) -> httpx.Response:
    backend = WordBackend()
    backend.page = PageAnswer(200, ((b"cache-control", b"no-store"),), b"page")
    async with visitor(door(backend)) as client:
        return await client.get(path)


async def test_the_page_may_ask_no_other_host() -> None:
    response = await _page("/ui/")
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["cache-control"] == "no-store"


async def test_files_that_never_change_are_kept_by_browsers() -> None:
    response = await _page("/ui/assets/Index-DkT9a2Xz.js")
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, "http://door"),
        ({"x-forwarded-prefix": "/a/b/"}, "http://door/a/b"),
        ({"x-forwarded-prefix": "//evil.example"}, "http://door"),
        ({"x-forwarded-prefix": '/"><x'}, "http://door"),
        ({"x-forwarded-prefix": "/../.."}, "http://door"),
        ({"x-forwarded-prefix": "/" + "a/" * 3_000}, "http://door"),
        ({"x-forwarded-host": "a.example:8443, b.example", "x-forwarded-proto": "https"}, "https://a.example:8443"),
        ({"x-forwarded-host": "["}, "http://door"),
        ({"x-forwarded-host": "a b", "x-forwarded-proto": "javascript"}, "http://door"),
        ({"origin": "http://[", "host": "[::1]:80"}, "http://[::1]:80"),
    ],
)
async def test_the_page_s_address_is_its_visitor_s_whatever_proxies_say(headers: dict[str, str], origin: str) -> None:
    """Of words that are no part of an address, none is told to the playground, which would fail over them."""
    backend = WordBackend()
    backend.page = PageAnswer(200, (), b'{"root":"http://playground.invalid/ui"}')
    async with visitor(door(backend)) as client:
        for path in ("/ui/", "/ui/config", "/ui/"):
            assert (await client.get(path, headers=headers)).json() == {"root": f"{origin}/ui"}
    assert len(backend.page_requests) == 2, "the page is asked for once"
    assert {name for one in backend.page_requests for name, _ in one.scope["headers"]} == {b"host", b"accept-encoding"}


async def test_an_answer_is_what_the_application_sends() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"body"
        await send({"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await send({"type": "http.response.body", "body": b"2"})

    answer = await respond(app, PageRequest({"type": "http"}, b"body"))
    assert answer == PageAnswer(201, ((b"a", b"b"),), b"12")


def test_no_event_goes_through_gradio_s_queue_and_no_page_holds_a_stream() -> None:
    """A queue keeps answers for streams that nobody reads."""
    program = (
        "import json; from deployments.ui import page; "
        "from starlette.testclient import TestClient; "
        "print(json.dumps(TestClient(page.build({}, print)).get('/ui/config').json()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True, check=True)
    config = json.loads(ran.stdout.splitlines()[-1])
    assert len(config["dependencies"]) > 10
    assert not any(one["queue"] for one in config["dependencies"])
    assert not config.get("connect_heartbeat")


def test_neither_the_ingress_nor_the_playground_s_start_loads_gradio() -> None:
    """190 MiB and 2.7 s, which only a visitor is to cost."""
    program = "import sys, deployments.ingress, deployments.ui.app; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
