"""What the routes answer: statuses, envelopes, headers, and what they do with a body on its way in."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.telemetry import RequestLog
from reranker.config import ObservabilityConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.errors import NotReadyError, OverloadedError, StartFailedError
from reranker.types import RankedDocument, Ranking
from tests.unit.doors import BODY, WordBackend, door, visitor

BEST_FIRST = [2, 1, 0]


@pytest.mark.parametrize("path", [path for path, dialect in PATHS.items() if dialect is None])
async def test_every_rerank_path_gives_the_same_ranking(path: str) -> None:
    async with visitor(door(WordBackend())) as client:
        answer = (await client.post(path, json=BODY)).json()
    assert [result["index"] for result in answer["results"]] == BEST_FIRST


async def test_every_example_of_the_docs_works_when_pasted() -> None:
    async with visitor(door(WordBackend())) as client:
        schema = (await client.get("/openapi.json")).json()
        shown = {}
        for path, methods in schema["paths"].items():
            if "post" not in methods:
                continue
            examples = methods["post"]["requestBody"]["content"]["application/json"]["examples"]
            named = {one["name"]: one["example"] for one in methods["post"]["parameters"] if one["in"] == "path"}
            for example in examples.values():
                response = await client.post(path.format_map(named), json=example["value"])
                assert response.status_code == 200, response.text
                assert "x-reranker-ignored" not in response.headers
            shown[path] = set(examples)
    for path, spoken in PATHS.items():
        wanted = [spoken] if spoken else [one for one in DIALECTS if one.shares_paths]
        assert shown[path.replace(":path", "")] == {name for one in wanted for name in one.examples}


async def test_ignored_fields_are_named_in_a_header() -> None:
    async with visitor(door(WordBackend())) as client:
        response = await client.post("/v1/rerank", json=BODY | {"truncate_prompt_tokens": 9, "kwargs": '{"a": 1}'})
        assert response.headers["x-reranker-ignored"] == "truncate_prompt_tokens, kwargs"
        assert "x-reranker-ignored" not in (await client.post("/v1/rerank", json=BODY)).headers


async def test_answer_carries_the_clients_request_id() -> None:
    async with visitor(door(WordBackend())) as client:
        given = await client.post("/v1/rerank", json=BODY, headers={"x-request-id": "mine"})
        assert given.json()["id"] == "mine"
        assert (await client.post("/v1/rerank", json=BODY)).json()["id"].startswith("rerank-")


async def test_answer_says_what_each_stage_took() -> None:
    async with visitor(door(WordBackend())) as client:
        timing = (await client.post("/v1/rerank", json=BODY)).headers["server-timing"]
    took_ms = {stage: float(ms) for stage, ms in (entry.split(";dur=") for entry in timing.split(", "))}
    assert list(took_ms) == ["read", "parse", "admit", "engine", "respond", "total"]
    assert all(0 <= ms <= took_ms["total"] for ms in took_ms.values())


async def test_timeout_header_reaches_the_list() -> None:
    backend = WordBackend()
    async with visitor(door(backend)) as client:
        await client.post("/v1/rerank", json=BODY | {"timeout_s": 9}, headers={"X-Reranker-Timeout-S": "2"})
    assert backend.lists[0].timeout_s == 2


async def test_overload_says_when_to_come_back_in_the_dialects_own_words(caplog: pytest.LogCaptureFixture) -> None:
    backend = WordBackend()
    backend.error = OverloadedError(9.5, 4)
    with caplog.at_level(logging.INFO):
        async with visitor(door(backend, RequestLog(ObservabilityConfig()))) as client:
            response = await client.post("/rerank", json={"query": "secret", "texts": ["a"]})
    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
    assert response.json()["error_type"] == "Overloaded"
    assert "of anonymous refused: 429 overloaded" in caplog.text
    assert "secret" not in caplog.text


async def test_large_bodies_are_read_in_a_thread_with_the_same_result() -> None:
    large = BODY | {"documents": [*BODY["documents"], "x" * 100_000]}
    async with visitor(door(WordBackend())) as client:
        answer = (await client.post("/v1/rerank", json=large)).json()
    assert [result["index"] for result in answer["results"]] == [*BEST_FIRST, 3]


@pytest.mark.parametrize(
    ("encoding", "body", "status", "named"),
    [
        ("gzip", gzip.compress(json.dumps(BODY).encode(), mtime=0), 200, ""),
        ("identity", json.dumps(BODY).encode(), 200, ""),
        ("gzip", json.dumps(BODY).encode(), 400, "Content-Encoding"),
        ("br", b"", 415, "gzip and deflate"),
        ("gzip", gzip.compress(b" " * 100_000, mtime=0), 413, "the limit is 2000"),
    ],
)
async def test_compressed_bodies_are_accepted_within_the_limit(
    encoding: str, body: bytes, status: int, named: str
) -> None:
    async with visitor(door(WordBackend(), max_request_bytes=2_000)) as client:
        response = await client.post("/v1/rerank", content=body, headers={"content-encoding": encoding})
    assert response.status_code == status
    assert named in response.text


async def _endless(taken: list[int]) -> AsyncIterator[bytes]:
    while True:
        taken.append(100)
        yield b" " * 100


async def test_body_over_the_limit_is_refused_before_it_is_all_there() -> None:
    """With its length declared, before any of it; without, as soon as it is too much."""
    async with visitor(door(WordBackend(), max_request_bytes=1_000)) as client:
        declared = await client.post("/v1/rerank", content=b" " * 1_001)
        assert declared.status_code == 413
        assert "1001 bytes; the limit is 1000" in declared.json()["message"]
    taken: list[int] = []
    sent: list[Any] = []
    body = _endless(taken)

    async def receive() -> Any:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": [], "query_string": b""}
    await door(WordBackend(), max_request_bytes=1_000)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert sum(taken) <= 1_100


async def test_client_that_goes_away_while_it_sends_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": [], "query_string": b""}
    await door(WordBackend())(scope, receive, send)
    assert sent[0]["status"] == 499
    assert "Traceback" not in caplog.text


async def test_page_has_a_field_for_a_key_and_a_probe_may_ask_for_the_head_only() -> None:
    async with visitor(door(WordBackend())) as client:
        schema = (await client.get("/openapi.json")).json()
        assert schema["components"]["securitySchemes"]["API key"]["scheme"] == "bearer"
        assert (await client.head("/health")).status_code == 200


@pytest.mark.parametrize(("error", "status"), [(NotReadyError(), "starting"), (StartFailedError(), "failed")])
async def test_health_says_why_it_is_503(error: NotReadyError, status: str) -> None:
    backend = WordBackend()
    async with visitor(door(backend)) as client:
        assert (await client.get("/health")).json() == {"status": "ok", "model": "words", "replicas": 1}
        backend.error = error
        response = await client.get("/health")
    assert (response.status_code, response.json()["status"], response.headers["retry-after"]) == (503, status, "5")
    assert response.json()["replicas"] == [{"replica": "a", "stage": "loading", "seconds": 3}]


async def test_ingress_that_ends_is_not_healthy_and_still_answers() -> None:
    backend = WordBackend()
    backend.draining = True
    async with visitor(door(backend)) as client:
        for path in ("/health", "/-/healthz"):
            assert (await client.get(path)).status_code == 503
        assert (await client.get("/health")).json()["status"] == "leaving"
        assert (await client.post("/v1/rerank", json=BODY)).status_code == 200


async def test_model_is_found_by_its_name_only() -> None:
    """Xinference's client asks for it, and reads `model_type`; names may have slashes."""
    async with visitor(door(WordBackend())) as client:
        [listed] = (await client.get("/v1/models")).json()["data"]
        assert (await client.get("/v1/models/words")).json() == listed
        assert (listed["id"], listed["model_type"]) == ("words", "rerank")
        missing = await client.get("/v1/models/Qwen/Qwen3")
    assert (missing.status_code, missing.json()["detail"]) == (404, "no such model; this service has words")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/no/such/path", 404, "POST /v1/rerank"),
        ("GET", "/v1/rerank", 405, "it takes POST"),
        ("POST", "/health", 405, "it takes GET"),
    ],
)
async def test_frameworks_own_errors_have_our_body(method: str, path: str, status: int, said: str) -> None:
    async with visitor(door(WordBackend())) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert said in response.json()["message"]
    assert response.json()["error_type"] == f"http_{status}"


async def test_root_and_info_say_what_this_is() -> None:
    async with visitor(door(WordBackend())) as client:
        assert (await client.get("/")).json()["rerank"] == "POST /v1/rerank"
        assert (await client.get("/info")).json()["model_type"] == {"reranker": {}}
        assert "swagger" in (await client.get("/docs")).text


async def test_description_and_its_page_are_made_once() -> None:
    app = door(WordBackend())
    async with visitor(app) as client:
        first = {path: (await client.get(path)).content for path in ("/openapi.json", "/docs")}
        app.openapi = lambda: pytest.fail("made again")  # type: ignore[method-assign]
        assert {path: (await client.get(path)).content for path in first} == first


PARTIAL_BODIES = [
    ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}),
    ("/rerank", {"query": "q", "texts": ["a", "b"]}),
    ("/rerank", {"query": "q", "docs": ["a", "b"]}),
    ("/v1/ranking", {"query": "q", "passages": ["a", "b"]}),
    ("/score", {"text_1": "q", "text_2": ["a", "b"]}),
]


@pytest.mark.parametrize(("path", "body"), PARTIAL_BODIES)
async def test_every_dialect_can_tell_that_an_answer_is_partial(path: str, body: dict[str, Any]) -> None:
    """Some have a bare list, and nowhere to say it."""

    class Slow(WordBackend):
        async def rank(self, lists: Any, caller: Any, record: Any) -> Any:
            return [Ranking((RankedDocument(1, 0.5, 0.0),), unscored=(0,))]

    async with visitor(door(Slow())) as client:
        assert (await client.post(path, json=body)).headers["x-reranker-unscored"] == "1"
    async with visitor(door(WordBackend())) as client:
        assert "x-reranker-unscored" not in (await client.post(path, json=body)).headers


@pytest.mark.parametrize(
    "path", ["/v1/models", "/health", "/info", "/", "/v1/health/ready", "/.well-known/ready", "/docs"]
)
async def test_head_is_answered_where_get_is(path: str) -> None:
    """The server sends no body: `tests/integration`'s and uvicorn's business."""
    async with visitor(door(WordBackend())) as client:
        head, get = await client.head(path), await client.get(path)
        wrong = await client.head("/v1/rerank")
    assert (head.status_code, get.status_code, wrong.status_code) == (200, 200, 405)
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/v1/health/live", "/v1/health/ready", "/.well-known/live", "/.well-known/ready"])
async def test_health_under_other_clients_names_needs_no_key(path: str) -> None:
    async with visitor(door(WordBackend(), keys="a: secret")) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("header", ["X-Reranker-Timeout-S", "X-Request-Timeout-Seconds"])
async def test_timeout_header_is_named_as_it_was_sent(header: str) -> None:
    async with visitor(door(WordBackend())) as client:
        response = await client.post("/v1/rerank", json=BODY, headers={header: "5s"})
    assert (response.status_code, response.json()["field"]) == (400, header)


@pytest.mark.parametrize("texts", [[], [1], ["a"] * 4])
async def test_what_is_wrong_with_a_body_is_said_in_its_own_dialect(texts: list[Any]) -> None:
    async with visitor(door(WordBackend(), max_documents=3)) as client:
        said = (await client.post("/rerank", json={"query": "q", "texts": texts})).json()
    assert said["error_type"] == "Validation"
    assert said["code"] in ("invalid_request", "request_too_large")


async def test_charset_of_the_content_type_counts_where_a_body_is_not_utf8() -> None:
    body = '{"query": "café", "documents": ["café"]}'.encode("latin-1")
    async with visitor(door(backend := WordBackend())) as client:
        named = {"content-type": 'application/json; charset="ISO-8859-1"'}
        assert (await client.post("/v1/rerank", content=body, headers=named)).status_code == 200
        unnamed = await client.post("/v1/rerank", content=body, headers={"content-type": "application/json"})
    assert backend.lists[0].query == "café"
    assert (unnamed.status_code, unnamed.json()["field"]) == (400, "query")


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}


async def test_page_in_a_browser_may_ask_where_its_origin_is_configured() -> None:
    app = door(WordBackend(), keys="a: secret", cors_origins=("https://app.example",))
    async with visitor(app, {"origin": "https://app.example"}) as client:
        asked = await client.options("/v1/rerank", headers=PREFLIGHT)
        refused = await client.post("/v1/rerank", json=BODY)  # the page can read why
        answered = await client.post("/v1/rerank", json=BODY, headers={"authorization": "Bearer secret"})
    assert (asked.status_code, refused.status_code, answered.status_code) == (200, 401, 200)
    for response in (asked, refused, answered):
        assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "X-Reranker-Ignored" in answered.headers["access-control-expose-headers"]
    async with visitor(app, {"origin": "https://other.example"}) as client:
        asked = await client.options("/v1/rerank", headers=PREFLIGHT)
    assert (asked.status_code, asked.json()["field"]) == (400, "Origin")
    async with visitor(door(WordBackend()), {"origin": "https://app.example"}) as client:
        asked = await client.options("/v1/rerank", headers=PREFLIGHT)
    assert (asked.status_code, "access-control-allow-origin" in asked.headers) == (405, False)


async def test_a_path_of_its_own_names_its_own_methods() -> None:
    """Whatever a path with a parameter takes there as well: GET /v1/models/NAME."""
    async with visitor(door(WordBackend())) as client:
        answer = await client.delete("/v1/models/rerank")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert (await client.delete("/v1/models/a")).headers["allow"] == "GET, HEAD"
