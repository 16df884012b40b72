"""The front as a whole: every error in every dialect, the page's schemas as the dialects write, nothing left behind."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import TypeAdapter

from reranker import errors
from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.dialects.base import Dialect
from reranker.dialects.parse import parse
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, RankedDocument, Ranking
from tests.unit.doors import KEYS, WordBackend, door, hang_up, visitor
from tests.unit.test_errors import EXAMPLES

BODIES: dict[str, dict[str, Any]] = {
    "rerank": {"query": "q", "documents": ["a"]},
    "tei": {"query": "q", "texts": ["a"]},
    "voyage": {"query": "q", "documents": ["a"], "top_k": None},
    "infinity": {"query": "q", "documents": ["a"], "raw_scores": False},
    "score": {"text_1": "q", "text_2": "a"},
    "list": {"query": "q", "documents": ["a"]},
    "simple": {"query": "q", "docs": ["a"]},
    "dashscope": {"documents": ["a"], "input": {"query": "q"}},
    "weaviate": {"query": "q", "documents": ["a"], "property": "text"},
    "nvidia": {"query": {"text": "q"}, "passages": ["a"]},
    "sglang": {"query": "q", "documents": ["a"]},
    "mixedbread": {"query": "q", "input": ["a"]},
    "zeroentropy": {"query": "q", "documents": ["a"]},
    "pinecone": {"query": "q", "documents": ["a"]},
    "deepinfra": {"queries": ["q"], "documents": ["a"]},
}
_OF_PATHS = errors.NotFoundError, errors.MethodNotAllowedError
_OF_RANKINGS = [one for one in errors.for_clients() if not issubclass(one, _OF_PATHS)]


def _path(dialect: Dialect) -> str:
    return next(path for path, one in PATHS.items() if one in (dialect, None) and (one or dialect.shares_paths))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("kind", _OF_RANKINGS, ids=lambda kind: kind.code)
async def test_every_error_is_answered_in_every_dialect_as_its_class_says(
    kind: type[errors.RerankerError], dialect: Dialect
) -> None:
    """Also one that is new tomorrow: nothing but its class and the dialect's own way of writing it is asked."""
    backend = WordBackend()
    backend.error = error = kind(*EXAMPLES[kind])
    async with visitor(door(backend)) as client:
        response = await client.post(_path(dialect), json=BODIES[dialect.name])
    assert response.status_code == kind.status_code
    assert response.json() == json.loads(json.dumps(dialect.error(error)))
    assert response.json()["message"] == str(error)
    assert response.headers.get("retry-after") == (str(error.retry_after_s) if error.retry_after_s else None)
    assert response.headers["server-timing"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_what_stops_a_request_before_its_route_is_in_the_paths_dialect_too(path: str) -> None:
    """A client of vLLM's reads `error.message`, be it the key, the method or the URL that is wrong."""
    dialect = PATHS[path]
    async with visitor(door(WordBackend(), keys=KEYS, max_url_bytes=100)) as client:
        key = {"authorization": "Bearer team-key"}
        unknown = await client.post(path, json={})
        wrong_method = await client.get(path, headers=key)
        too_long = await client.post(path + "?" + "a" * 100, json={}, headers=key)
    wanted = 404 if path == "/v1/models/rerank" else 405  # GET: no model of that name
    assert (unknown.status_code, wrong_method.status_code, too_long.status_code) == (401, wanted, 414)
    assert wanted == 404 or wrong_method.headers["allow"] == "POST"
    for response in (unknown, wrong_method, too_long):
        assert isinstance(response.json()["error"], dict if dialect and dialect.name == "score" else str)


@pytest.mark.parametrize("path", ["/v1/inference/{model:path}", "/v1/retrieval/{model:path}/reranking"])
async def test_path_with_a_models_name_is_one_path_of_rankings(path: str) -> None:
    """Else a key's limits would not hold there, and each name would be a series of its own."""
    told: list[RequestRecord] = []
    async with visitor(door(WordBackend(), told.append)) as client:
        for name in ("m", "Qwen/Qwen3-Reranker-8B", "a%20b"):
            response = await client.post(path.replace("{model:path}", name), json={})
            assert (response.status_code, "server-timing" in response.headers) == (400, True)
        assert (await client.post(path.replace("{model:path}", ""), json={})).status_code == 404
    assert {one.path for one in told[:3]} == {path}


def _closed(schema: Any) -> Any:  # Any: JSON
    """Forbid what a schema does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    return closed | {"additionalProperties": False} if "properties" in schema else closed


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_answer_is_what_its_type_says_and_no_more(dialect: Dialect, everything: bool) -> None:
    """The OpenAPI page is made of these types: a field that is written and not declared would be missing there."""
    pairs = 2 if everything else 1
    body = {name: ["a"] * pairs if value == ["a"] else value for name, value in BODIES[dialect.name].items()}
    if dialect.name == "score":
        body["text_2"] = ["a"] * pairs
    if everything:
        body |= dict.fromkeys(("return_documents", "return_text", "return_input", "timings", "raw_scores"), True)
    call = parse(json.dumps(body).encode(), dialect, LimitsConfig())
    ranking = Ranking((RankedDocument(0, 0.5, 0.0),), (), 10)
    record = RequestRecord("mine")
    if everything:
        ranked = RankedDocument(0, 0.5, 0.0, truncated=True, windows=3)
        ranking = replace(ranking, results=(ranked,), excluded=(ExcludedDocument(1, "threshold"),), unscored=(1,))
        record.shard(2, 20, np.zeros(2, dtype=np.int32)).send()
        with record.stage("parse"):
            pass
    answer = json.loads(json.dumps(call.write([ranking], "demo", record)))
    schema = _closed(TypeAdapter(dialect.answer).json_schema())
    jsonschema.validate(answer, schema)
    if everything and isinstance(answer, dict):
        assert {"unscored", "excluded"} <= answer.keys()
        assert ("timings" in answer) == ("timings" in schema["properties"])


async def test_page_has_every_path_with_the_answer_of_its_dialects() -> None:
    async with visitor(door(WordBackend())) as client:
        page = (await client.get("/openapi.json")).json()
    for path, dialect in PATHS.items():
        described = page["paths"][path.replace(":path", "")]["post"]
        assert ("{" in path) == any(one["in"] == "path" for one in described["parameters"])
        shown = json.dumps(described["responses"]["200"])
        for one in (dialect,) if dialect else (one for one in DIALECTS if one.shares_paths):
            [named] = {getattr(kind, "__name__", "") for kind in getattr(one.answer, "__args__", (one.answer,))}
            assert named in shown
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        for one in schema.get("anyOf", [schema]):
            assert page["components"]["schemas"][one["$ref"].rpartition("/")[2]]["properties"]
        of_rankings = {str(kind.status_code) for kind in _OF_RANKINGS}
        assert of_rankings <= described["responses"].keys()
        assert page["security"] == [{"API key": []}]
    assert "text/plain" in page["paths"]["/metrics"]["get"]["responses"]["200"]["content"]


async def test_client_that_hangs_up_ends_its_request_and_nothing_is_sent() -> None:
    backend = WordBackend()
    backend.go_on.clear()  # the ranking would never end by itself
    assert await hang_up(door(backend), backend) == []
    assert backend.lists


async def test_hang_up_after_the_answer_is_none() -> None:
    """A server reports one as soon as an answer is out; what is still to do for the request must not be cut off."""
    told: list[RequestRecord] = []
    backend = WordBackend()
    sent = await hang_up(door(backend, told.append), backend)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert [(one.status, one.error) for one in told] == [(200, "")]


async def test_request_leaves_nothing_for_the_garbage_collector() -> None:
    """A reference cycle in each request costs a small one a quarter of its processor time, in collections."""
    backend = WordBackend()
    app = door(backend)
    await hang_up(app, backend)
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        await hang_up(app, backend)
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, RequestRecord)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
