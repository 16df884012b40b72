"""Search over HTTP, with the real deployments: retrieve, rerank, a replaced index, a lost replica."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments.cli.main import main
from reranker.client import RerankerClient
from reranker.errors import UnknownIndexError
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
    build(simulated.folder / "plain", [*DOCUMENTS, {"id": "new", "text": "a captain"}], vectors=False)
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


def test_client_searches_and_command_measures(
    simulated: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RerankerClient(simulated.url) as client:
        [found] = client.search("whale", index="books", top_n=1, filter={"lang": "de"}, first_stage="bm25")
        assert (found.id, found.metadata["year"], found.first_stage_rank) == ("wal", 1900, 1)
        assert found.relevance_score is not None
        assert client.search("whale", index="books", rerank=False)[0].relevance_score is None
        with pytest.raises(UnknownIndexError):
            client.search("whale", index="nowhere")

    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\twhale\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a captain hunts"}\n')
    assert main(["eval", str(tmp_path), "--search", "books", "--url", simulated.url, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]["nDCG@10"]
    assert measured["before"] == 1.0  # the first stage has it first; simulated scores mean nothing
    assert 0 < measured["after"] <= 1
