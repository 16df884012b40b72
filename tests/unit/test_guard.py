"""No route answers without a key when keys are on, whatever the path looks like; and no head is too large to refuse."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from deployments.http.middleware import OPEN, is_open
from tests.unit.doors import BODY, KEYS, WordBackend, door, visitor

AS_TEAM = {"authorization": "Bearer team-key"}


def _routes() -> list[tuple[str, str]]:
    """Every method and path that the application has, found by walking it."""
    listed = door(WordBackend()).routes
    assert all(isinstance(route, Route) for route in listed), "a mount: walk into it here"
    found = [(method, route.path) for route in listed if isinstance(route, Route) for method in route.methods or ()]
    assert len(found) > 15
    return sorted(found)


@pytest.mark.parametrize(("method", "path"), _routes())
async def test_every_route_of_the_application_needs_a_key_but_the_open_ones(method: str, path: str) -> None:
    """A route added tomorrow is guarded without anybody thinking of it."""
    backend = WordBackend()
    async with visitor(door(backend, keys=KEYS)) as client:
        response = await client.request(method, path.replace("{model_id:path}", "words"), json=BODY)
        assert (response.status_code == 401) == (not is_open(path, method)), response.text
        if not is_open(path, method):
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error_type"] == "unauthorized"
    assert not backend.lists


TRICKS = [
    "/v1/rerank/", "//v1/rerank", "/v1//rerank", "/V1/RERANK", "/v1/Rerank", "/%76%31/rerank", "/v1%2Frerank",
    "/v1/rerank%2F", "/v1/./rerank", "/health/../v1/rerank", "/v1/rerank;a=b", "/v1/rerank?key=x", "/v1/rerank%00",
    "/docs/../v1/rerank", "/docs%2F..%2Fv1%2Frerank", "/v1/rerank%20", "/\\v1\\rerank", "/health/v1/rerank", "/score/",
    "///v1/score//", "/v1/v1/rerank/", "/INFO", "/info/", "/v1/load/", "/v1/models//words", "/openapi.json/../info",
]  # fmt: skip


METHODS = ["POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "PROPFIND"]


async def test_no_spelling_of_a_path_gets_past_the_keys() -> None:
    backend = WordBackend()
    app = door(backend, keys=KEYS)
    statuses = {(method, path): await _status(app, _scope(method, path)) for path in TRICKS for method in METHODS}
    assert {call for call, status in statuses.items() if status != 401} == set()
    assert not backend.lists


def _scope(method: str, target: str) -> dict[str, Any]:  # Any: ASGI
    """Read a request's target as uvicorn does: nothing is normalized."""
    raw, _, query = target.partition("?")
    path = httpx.URL(f"http://door{raw}").path if "%" in raw else raw
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [],
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("door", 80),
        "client": ("client", 1),
    }


async def _status(app: Any, scope: dict[str, Any]) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", ["/v1/rerank/", "//v1//rerank", "/v1/rerank//"])
async def test_base_url_with_a_slash_at_its_end_works(path: str) -> None:
    """Clients glue their path to what a person typed."""
    async with visitor(door(WordBackend(), keys=KEYS), AS_TEAM) as client:
        assert (await client.post(f"http://door{path}", json=BODY)).status_code == 200


async def test_open_paths_are_open_in_one_spelling_only() -> None:
    async with visitor(door(WordBackend(), keys=KEYS)) as client:
        assert {path: (await client.get(path)).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)
        assert (await client.get("/v1/cluster/auth")).json() == {"auth": True}
        assert (await client.get("/Health")).status_code == 401
    async with visitor(door(WordBackend())) as client:
        assert (await client.get("/v1/cluster/auth")).json() == {"auth": False}


async def test_guard_sees_the_path_that_is_routed_behind_a_prefix() -> None:
    """Serve's route prefix is the root path; what comes after it counts, for the check and for the routing."""
    app = door(WordBackend(), keys=KEYS)
    prefixed = {"root_path": "/svc"}
    assert await _status(app, _scope("GET", "/svc/health") | prefixed) == 200
    assert await _status(app, _scope("GET", "/svc/info") | prefixed) == 401
    assert await _status(app, _scope("GET", "/svc//health/") | prefixed) == 200


async def test_two_authorization_headers_are_none() -> None:
    """Which of them counts would depend on who reads them."""
    async with visitor(door(WordBackend(), keys=KEYS)) as client:
        headers = [("authorization", "Bearer nonsense"), ("authorization", "Bearer team-key")]
        assert (await client.post("/v1/rerank", json=BODY, headers=headers)).status_code == 401


async def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await door(WordBackend())({"type": "websocket", "path": "/v1/rerank", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_key_decides_who_calls_and_their_limits_hold(caplog: pytest.LogCaptureFixture) -> None:
    backend = WordBackend()
    backend.go_on.clear()
    async with visitor(door(backend, keys=KEYS), {"authorization": "Bearer batch-key"}) as client:
        with caplog.at_level(logging.INFO):
            first = asyncio.create_task(client.post("/v1/rerank", json=BODY))
            await backend.arrived.wait()
            second = await client.post("/v1/rerank", json=BODY)
            other = asyncio.create_task(client.post("/v1/rerank", json=BODY, headers=AS_TEAM))
            backend.go_on.set()
            assert ((await first).status_code, (await other).status_code) == (200, 200)
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert second.json()["error_type"] == "quota_exceeded"
    assert [caller.name for caller in backend.callers] == ["batch", "team"]
    assert "key" not in caplog.text


async def test_long_urls_and_large_headers_are_refused() -> None:
    async with visitor(door(WordBackend(), max_url_bytes=100, max_header_bytes=500)) as client:
        url = await client.get("/health?" + "a" * 100)
        assert (url.status_code, url.json()["error_type"]) == (414, "url_too_long")
        headers = await client.get("/health", headers={"x-much": "a" * 500})
        assert (headers.status_code, headers.json()["error_type"]) == (431, "headers_too_large")


@pytest.mark.parametrize("host", ["[", "a b", "a:abc", "", "é", "a/b", "a:123456", "[::1", "a@b", "<"])
@pytest.mark.parametrize("path", ["/", "/ui/", "/health", "/nowhere", "/v1/rerank"])
async def test_host_that_is_none_is_refused_in_a_sentence(
    host: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with visitor(door(WordBackend())) as client:
        answer = await client.get(path, headers=[(b"host", host.encode())])
    assert (answer.status_code, answer.json()["field"]) == (400, "Host")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("host", ["door", "a.b-c.example:8000", "[::1]:8000", "127.0.0.1", "reranker_0.default.svc"])
async def test_hosts_that_exist_are_let_in(host: str) -> None:
    async with visitor(door(WordBackend())) as client:
        assert (await client.get("/nowhere", headers={"host": host})).status_code == 404


async def test_bug_of_ours_is_a_sentence_to_the_client_and_a_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = WordBackend()
    backend.error = KeyError("three")  # as a bug would quote a document
    async with visitor(door(backend)) as client:
        response = await client.post("/score", json={"text_1": "one", "text_2": "three"})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "internal error; the service's log has more"
    assert "three" not in response.text
    assert "Traceback" in caplog.text
