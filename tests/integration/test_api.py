"""The HTTP surface of a running service: readiness, envelope, order, errors. JSON on every path and status."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Service

DOCUMENTS = ["The sky is blue.", "Beijing is the capital of China.", "", "Beijing is the capital of China."]
QUERY = "capital of China"


def test_health_was_503_in_json_until_the_engine_could_score(service: Service) -> None:
    """A load balancer must not send traffic too early, and some clients break on an answer in plain text."""
    *before, (last_status, _) = service.startup_answers
    assert before, "the first answer was 200: the poll came too late to see the start"
    assert {status for status, _ in before} == {503}
    assert last_status == 200
    assert {content_type for _, content_type in service.startup_answers} == {"application/json"}
    assert "loading the weights and warming up" in service.startup_stages
    assert "Starting: loading the weights and warming up" in service.log.read_text()


def test_scores_are_sorted_ties_by_index(service: Service) -> None:
    results = service.rerank(QUERY, DOCUMENTS)["results"]
    assert [result["index"] for result in results[:2]] == [1, 3]
    assert sorted(result["index"] for result in results) == [0, 1, 2, 3]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == scores[1]
    assert all(0 <= score <= 1 for score in scores)


def test_top_n_cuts_and_return_documents_echoes(service: Service) -> None:
    answer = service.rerank(QUERY, DOCUMENTS, top_n=1, return_documents=True, model="any", unknown_field=1)
    assert [result["document"] for result in answer["results"]] == [{"text": DOCUMENTS[1]}]
    assert answer["object"] == "rerank"
    assert answer["model"] == "demo"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_instruction_is_part_of_the_prompt(service: Service) -> None:
    """The demo model's score hardly moves with it, its token count does."""
    plain = service.rerank(QUERY, DOCUMENTS)["usage"]["prompt_tokens"]
    longer = service.rerank(QUERY, DOCUMENTS, instruction="Find " + "patents " * 40)["usage"]["prompt_tokens"]
    assert longer > plain


def test_over_long_document_is_cut_and_costs_nobody_their_score(service: Service) -> None:
    """200,000 characters among 20 short ones: all 21 get a score, one is marked."""
    long = ("Beijing is the capital of China. " * 6_200)[:200_000]
    short = [f"Document {number} is about capital number {number}." for number in range(20)]
    answer = service.rerank(QUERY, [*short[:7], long, *short[7:]])
    assert sorted(result["index"] for result in answer["results"]) == list(range(21))
    assert answer["truncated"] == [7]
    assert answer["meta"]["truncated_documents"] == 1


def test_long_document_scored_in_windows_is_found_at_its_end(service: Service) -> None:
    """What truncation cuts off is what the query asks for; the windows find it, and `usage` says what they cost."""
    document = "Gravity attracts bodies. " * 4_000 + "Beijing is the capital of China."
    cut = service.rerank(QUERY, [document])
    whole = service.rerank(QUERY, [document], long_documents="windows")
    assert whole["windows"] == [{"index": 0, "windows": whole["meta"]["pairs"]}]
    assert whole["meta"]["pairs"] > 1
    assert "truncated" not in whole
    assert whole["results"][0]["relevance_score"] > cut["results"][0]["relevance_score"]
    assert whole["usage"]["prompt_tokens"] > cut["usage"]["prompt_tokens"]


def test_max_tokens_per_doc_cuts_the_end_asked_for(service: Service) -> None:
    document = "Gravity attracts bodies. " * 50 + "Beijing is the capital of China."
    right, left = (
        service.rerank(QUERY, [document], max_tokens_per_doc=20, truncation_side=side) for side in ("right", "left")
    )
    assert right["truncated"] == left["truncated"] == [0]
    assert left["results"][0]["relevance_score"] > right["results"][0]["relevance_score"]


def test_raw_scores_are_the_log_odds_of_the_scores(service: Service) -> None:
    scores = service.rerank(QUERY, DOCUMENTS)["results"]
    raw = service.rerank(QUERY, DOCUMENTS, raw_scores=True)["results"]
    assert [result["index"] for result in raw] == [result["index"] for result in scores]
    for one, other in zip(raw, scores, strict=True):
        assert 1 / (1 + math.exp(-one["relevance_score"])) == pytest.approx(other["relevance_score"], abs=1e-4)


def test_documents_below_the_threshold_are_listed_not_lost(service: Service) -> None:
    answer = service.rerank(QUERY, DOCUMENTS, score_threshold=0.5)
    kept = [result["index"] for result in answer["results"]]
    assert kept == [1, 3]
    assert answer["excluded"] == [{"index": index, "rule": "score_threshold"} for index in (0, 2)]


def test_named_instruction_is_known_or_refused_with_the_known_ones(service: Service) -> None:
    assert service.rerank(QUERY, DOCUMENTS, instruction="@medical")["results"]
    body = {"query": QUERY, "documents": DOCUMENTS, "instruction": "@medicine"}
    response = httpx.post(f"{service.url}/v1/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["field"] == "instruction"
    assert "@medical" in response.json()["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_every_rerank_path_gives_the_same_ranking(service: Service, path: str) -> None:
    response = httpx.post(f"{service.url}{path}", json={"query": QUERY, "documents": DOCUMENTS})
    assert response.json()["results"] == service.rerank(QUERY, DOCUMENTS)["results"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "/v1/rerank", b"not json", 400, "body"),
        ("POST", "/v1/rerank", b'{"documents": ["a"]}', 400, "query"),
        ("POST", "/v1/rerank", b'{"query": "q", "documents": ["a", 5]}', 400, "documents[1]"),
        ("POST", "/v1/rerank", b'{"query": "q", "documents": []}', 400, "documents"),
        ("POST", "/v1/rerank", b'{"query": "q", "documents": ["a"], "top_n": "x"}', 400, "top_n"),
        ("POST", "/v1/rerank", b'{"query": "' + b"word " * 9_000 + b'", "documents": ["a"]}', 400, "query"),
        ("POST", "/v1/rerank", b'{"query": "q", "documents": [' + b'"a",' * 10_000 + b'"a"]}', 413, "documents"),
        ("GET", "/v1/rerank", None, 405, "method"),
        ("POST", "/health", b"{}", 405, "method"),
        ("GET", "/no/such/path", None, 404, "path"),
    ],
)
def test_error_is_json_and_names_what_is_wrong(
    service: Service, method: str, path: str, body: bytes | None, status: int, named: str
) -> None:
    response = httpx.request(method, f"{service.url}{path}", content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert named in answer["message"]
    assert answer["message"] == answer["detail"] == answer["error"]
    assert "Traceback" not in response.text


def test_models_lists_the_one_model(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/models").json()
    assert [model["id"] for model in answer["data"]] == ["demo"]


def test_lists_at_the_same_time_get_their_own_scores(service: Service) -> None:
    """Pairs of many lists share the engine's batches; none may end up in another's answer."""

    def ask(number: int) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = service.rerank(
            f"capital number {number}", [f"the capital number {n}" for n in range(20)]
        )["results"]
        return results

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(20)))
    assert [results[0]["index"] for results in together] == list(range(20))
