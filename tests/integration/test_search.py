"""Search over HTTP, with the real deployments: retrieve, rerank, a replaced index, a lost replica."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.indexes import DOCUMENTS, build
from tests.integration.conftest import Service


@pytest.fixture
def client(simulated: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=simulated.url, timeout=60) as client:
        yield client


def _search(client: httpx.Client, **fields: Any) -> Any:  # Any: JSON
    response = client.post("/v1/search", json={"query": "a captain hunts a whale", **fields})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("stage", ["bm25", "dense", "hybrid"])
def test_every_first_stage_finds_candidates_and_they_are_reranked(client: httpx.Client, stage: str) -> None:
    answer = _search(client, first_stage=stage)
    assert (answer["index"], answer["first_stage"]) == ("books", stage)
    assert answer["candidates"] == len(answer["results"])
    first = next(one for one in answer["results"] if one["first_stage_rank"] == 1)
    assert first["id"] == "whale"
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {"retrieve", "engine"} <= answer["timings"]["stages_ms"].keys()
    assert answer["meta"]["pairs"] == answer["candidates"]


def test_search_scores_as_rerank_does(client: httpx.Client) -> None:
    """The same pipeline: same texts, same scores."""
    found = _search(client)["results"]
    texts = [f"{one['title']} {one['text']}" if "title" in one else one["text"] for one in found]
    answer = client.post("/v1/rerank", json={"query": "a captain hunts a whale", "documents": texts}).json()
    assert [one["relevance_score"] for one in answer["results"]] == [one["relevance_score"] for one in found]


def test_wrong_searches_are_refused_as_everywhere(client: httpx.Client) -> None:
    response = client.post("/v1/search", json={"query": "q", "index": "plain", "first_stage": "dense"})
    assert (response.status_code, response.json()["field"]) == (400, "first_stage")
    response = client.post("/v1/search", json={"query": "q", "index": "nowhere"}, headers={"x-request-id": "mine"})
    assert (response.status_code, response.json()["error_type"]) == (400, "unknown_index")
    assert response.headers["x-request-id"] == "mine"


def test_a_replaced_index_is_served_and_a_lost_replica_replaced(client: httpx.Client, simulated: Service) -> None:
    version = _search(client, index="plain")["version"]
    build(simulated.log.parent / "plain", [*DOCUMENTS, {"id": "new", "text": "a captain"}], vectors=False)
    deadline_s = time.monotonic() + 60
    while (answer := _search(client, index="plain"))["version"] == version:
        assert time.monotonic() < deadline_s, "the newer version is not served"
        time.sleep(0.5)
    assert "new" in {one["id"] for one in answer["results"]}

    for process in simulated.replica_processes("SearchReplica"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert _search(client, index="plain")["results"]
    listed = {one["name"]: one for one in client.get("/v1/indexes").json()["data"]}
    assert (listed["plain"]["documents"], listed["books"]["first_stage"]) == (len(DOCUMENTS) + 1, "hybrid")
