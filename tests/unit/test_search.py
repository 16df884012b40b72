"""POST /v1/search without Ray: the real routes, guard and indexes; at the `Backend` seam a ranking by word count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.http.search import Search, SearchClient
from deployments.search import Indexes
from reranker.config import RerankerConfig
from reranker.record import RequestRecord
from reranker.search.embedding import SIMULATED
from reranker.search.first_stages import Query, Retrieval
from reranker.types import Caller, Ranking, RankRequest, Span, SpanTerms
from tests.indexes import DOCUMENTS, SimulatedEmbedder, build
from tests.unit.doors import KEYS, WordBackend, door, visitor


class LocalIndexes(SearchClient):
    """Real indexes in this process, in place of the search deployment."""

    def __init__(self, config: RerankerConfig) -> None:
        self.indexes = Indexes(config.search, SimulatedEmbedder(), {})
        self.queries: list[str] = []
        self.pause_s = 0.0

    async def search(self, query: Query) -> Retrieval:
        self.queries.append(query.text)
        await asyncio.sleep(self.pause_s)
        return await self.indexes.search(query)

    async def describe(self) -> list[dict[str, Any]]:
        return await self.indexes.describe()


class SearchBackend(WordBackend):
    """Searches real indexes, in this process."""

    def __init__(self, config: RerankerConfig) -> None:
        super().__init__()
        self.local = LocalIndexes(config)
        self.served = self.local.indexes
        self.search = Search(self.local, config)

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        assert record.size_bytes > sum(len(text) for text in lists[0].documents)
        return await super().rank(lists, caller, record)


def _config(tmp_path: Path) -> RerankerConfig:
    books, plain = build(tmp_path / "books", DOCUMENTS), build(tmp_path / "plain", DOCUMENTS, vectors=False)
    indexes = {
        "books": {"path": str(books), "instruction": "@medical", "score_threshold": 0.1},
        "plain": {"path": str(plain), "candidates": 1},
        "gone": {"path": str(tmp_path / "gone")},
    }
    return RerankerConfig.model_validate({"search": {"indexes": indexes, "embedding": {"model": SIMULATED}}})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RerankerConfig:
    """Shared by the tests that change no index."""
    return _config(tmp_path_factory.mktemp("indexes"))


@pytest.fixture
def backend(config: RerankerConfig) -> SearchBackend:
    return SearchBackend(config)


@pytest.fixture
async def client(backend: SearchBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with visitor(door(backend)) as client:
        yield client


async def _search(client: httpx.AsyncClient, **fields: Any) -> Any:  # Any: JSON
    response = await client.post("/v1/search", json={"query": "two whale", **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_answer_has_documents_both_scores_and_timings(client: httpx.AsyncClient, backend: SearchBackend) -> None:
    answer = await _search(client)
    assert (answer["object"], answer["index"], answer["first_stage"]) == ("search", "books", "hybrid")
    assert answer["version"] == "000001"
    first, *_ = answer["results"]
    assert first["relevance_score"] == max(one["relevance_score"] for one in answer["results"])
    ranks = [one["first_stage_rank"] for one in answer["results"]]
    assert len(set(ranks)) == len(ranks)
    assert all(one["first_stage_score"] > 0 for one in answer["results"])
    by_id = {one["id"]: one for one in answer["results"]}
    whale = by_id["whale"]
    assert (whale["title"], whale["text"]) == ("Moby-Dick", "A captain hunts a white whale.")
    assert (whale["chunk"], whale["start"], whale["metadata"]) == (0, 0, {"lang": "en", "year": 1851})
    assert {"retrieve", "engine", "parse"} <= answer["timings"]["stages_ms"].keys()
    asked = backend.lists[0]
    assert "Moby-Dick A captain hunts a white whale." in asked.documents  # ranked with its title
    assert (asked.instruction, asked.score_threshold) == ("@medical", 0.1)  # the index's


async def test_request_goes_before_the_settings_of_the_index(client: httpx.AsyncClient, backend: SearchBackend) -> None:
    answer = await _search(client, instruction="mine", score_threshold=0.7, first_stage="bm25", candidates=2, top_n=1)
    asked = backend.lists[0]
    assert (asked.instruction, asked.score_threshold, len(asked.documents)) == ("mine", 0.7, 2)
    assert (answer["candidates"], len(answer["results"]), answer["first_stage"]) == (2, 1, "bm25")
    assert (await _search(client, index="plain"))["candidates"] == 1


async def test_spans_are_of_a_chunks_own_text(
    client: httpx.AsyncClient, backend: SearchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ranked begins with the title, which is no part of the text that is returned."""
    rank = backend.rank

    async def with_spans(lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        [ranking] = await rank(lists, caller, record)
        spans = (Span(10, 19, 0.9, 2.2), Span(3, 8, 0.8, 1.4))  # "A captain", and a part of the title
        results = tuple(replace(one, spans=spans) for one in ranking.results)
        return [replace(ranking, results=results, spans_unscored=(0,))]

    monkeypatch.setattr(backend, "rank", with_spans)
    asked = {"relevant_spans": {"mode": "enabled"}, "return_documents": "evidence"}
    answer = await _search(client, **asked)
    assert backend.lists[0].spans == SpanTerms()
    whale = next(one for one in answer["results"] if one["id"] == "whale")
    assert (whale["text"], whale["relevant_spans"]) == ("A captain", [{"start": 0, "end": 9, "score": 0.9}])
    assert len(answer["spans_unscored"]) == 1
    assert all("relevant_spans" not in one for one in (await _search(client))["results"])


async def test_filter_holds_for_every_first_stage(client: httpx.AsyncClient) -> None:
    for stage in ("bm25", "dense", "hybrid"):
        answer = await _search(client, first_stage=stage, filter={"lang": "en", "year": {"$lt": 1950}})
        assert {one["id"] for one in answer["results"]} <= {"whale", "match"}
        assert answer["results"]


async def test_without_reranking_the_first_stage_says_the_order(
    client: httpx.AsyncClient, backend: SearchBackend
) -> None:
    answer = await _search(client, rerank=False, return_documents=False)
    assert [one["first_stage_rank"] for one in answer["results"]] == [1, 2, 3, 4]
    assert set(answer["results"][0]) == {"id", "chunk", "first_stage_score", "first_stage_rank"}
    assert backend.lists == []


async def test_nothing_found_is_an_empty_answer(client: httpx.AsyncClient, backend: SearchBackend) -> None:
    assert (await _search(client, filter={"lang": "fr"}))["results"] == []
    assert backend.lists == []


async def test_no_document_has_more_chunks_than_wanted(tmp_path: Path) -> None:
    long = {"id": "long", "text": "The whale is number two. " * 400}
    path = build(tmp_path / "long", [long, *DOCUMENTS])
    config = RerankerConfig.model_validate({"search": {"indexes": {"long": {"path": str(path)}}}})
    async with visitor(door(SearchBackend(config))) as client:
        every = await _search(client, top_n=0)
        assert sum(one["id"] == "long" for one in every["results"]) > 2
        fewer = await _search(client, top_n=3, max_per_document=1)
        assert len({one["id"] for one in fewer["results"]}) == len(fewer["results"]) == 3


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({"query": " "}, "query", "invalid_request"),
        ({"index": "nowhere"}, "index", "unknown_index"),
        ({"index": 5}, "index", "invalid_request"),
        ({"first_stage": "milvus"}, "first_stage", "invalid_request"),
        ({"first_stage": "bm26"}, "first_stage", "invalid_request"),
        ({"index": "plain", "first_stage": "dense"}, "first_stage", "invalid_request"),
        ({"candidates": 1_001}, "candidates", "invalid_request"),
        ({"candidates": 0}, "candidates", "invalid_request"),
        ({"top_n": -1}, "top_n", "invalid_request"),
        ({"filter": {"year": {"$almost": 5}}}, "filter.year.$almost", "invalid_request"),
        ({"filter": "year"}, "filter", "invalid_request"),
    ],
)
async def test_wrong_requests_name_their_field(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str, kind: str
) -> None:
    response = await client.post("/v1/search", json={"query": "two whale", **fields})
    assert (response.status_code, response.json()["error_type"]) == (400, kind), response.text
    assert response.json()["field"] == field


async def test_an_index_that_cannot_be_opened_takes_no_other_along(tmp_path: Path) -> None:
    backend = SearchBackend(_config(tmp_path))
    async with visitor(door(backend)) as client:
        await _require_others_served(client, backend, tmp_path)


async def _require_others_served(client: httpx.AsyncClient, backend: SearchBackend, tmp_path: Path) -> None:
    response = await client.post("/v1/search", json={"query": "two whale", "index": "gone"})
    assert (response.status_code, response.json()["error_type"]) == (503, "index_unavailable")
    assert response.headers["retry-after"]
    listed = {one["name"]: one for one in (await client.get("/v1/indexes")).json()["data"]}
    assert listed["books"]["first_stages"] == ["hybrid", "bm25", "dense"]
    assert (listed["plain"]["first_stage"], listed["gone"]["available"]) == ("bm25", False)

    build(tmp_path / "gone", DOCUMENTS)
    backend.served.refresh()
    assert (await _search(client, index="gone"))["results"]


async def test_a_newer_version_is_served_without_a_restart(tmp_path: Path) -> None:
    path = build(tmp_path / "books", DOCUMENTS, vectors=False)
    backend = SearchBackend(RerankerConfig.model_validate({"search": {"indexes": {"books": {"path": str(path)}}}}))
    async with visitor(door(backend)) as client:
        before = await _search(client)
        build(tmp_path / "books", [{"id": "new", "text": "two whale"}], vectors=False)
        backend.served.refresh()
        after = await _search(client)
    assert (before["version"], after["version"]) == ("000001", "000002")
    assert [one["id"] for one in after["results"]] == ["new"]


async def test_an_index_of_another_embedding_model_is_not_served(tmp_path: Path) -> None:
    path = build(tmp_path / "books", DOCUMENTS)
    settings = {"indexes": {"books": {"path": str(path)}}, "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}}
    backend = SearchBackend(RerankerConfig.model_validate({"search": settings}))
    assert [one["available"] for one in await backend.served.describe()] == [False]


async def test_search_has_the_time_of_the_request_and_no_longer(
    client: httpx.AsyncClient, backend: SearchBackend
) -> None:
    """The clock of the request's head holds for finding and for ranking."""
    await _search(client, timeout_s=7)
    assert backend.lists[0].timeout_s == 7
    backend.local.pause_s = 5
    response = await client.post("/v1/search", json={"query": "two whale", "timeout_s": 0.05})
    assert (response.status_code, response.json()["error_type"]) == (504, "deadline_exceeded")


async def test_first_stage_gets_the_head_of_a_very_long_query(
    client: httpx.AsyncClient, backend: SearchBackend
) -> None:
    await _search(client, query="two whale " * 5_000)
    assert [len(query) for query in backend.local.queries] == [20_000]


async def test_search_needs_a_key_and_counts_for_its_limits(backend: SearchBackend) -> None:
    async with visitor(door(backend, keys=KEYS)) as client:
        assert (await client.post("/v1/search", json={"query": "q"})).status_code == 401
        assert (await client.get("/v1/indexes")).status_code == 401
        backend.go_on.clear()
        headers = {"Authorization": "Bearer batch-key"}
        first = asyncio.ensure_future(client.post("/search", json={"query": "two whale"}, headers=headers))
        await backend.arrived.wait()
        second = await client.post("/v1/search/", json={"query": "two whale"}, headers=headers)
        assert (second.status_code, second.json()["error_type"]) == (429, "quota_exceeded")
        backend.go_on.set()
        assert (await first).status_code == 200


async def test_without_an_index_the_routes_are_not_there() -> None:
    async with visitor(door(WordBackend())) as client:
        assert (await client.post("/v1/search", json={"query": "q"})).status_code == 404
        assert "/v1/search" not in (await client.get("/openapi.json")).json()["paths"]


async def test_openapi_page_describes_search(client: httpx.AsyncClient) -> None:
    page = (await client.get("/openapi.json")).json()
    described = page["paths"]["/v1/search"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]["$ref"].removeprefix(
        "#/components/schemas/"
    )
    assert "filter" in page["components"]["schemas"][body]["properties"]
    assert described["responses"]["200"]["content"]["application/json"]["schema"]
