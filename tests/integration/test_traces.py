"""What is told of a request afterwards: its trace at a real collector, its lines in the logs, its timings."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.integration.collector import Collector, attributes
from tests.integration.conftest import SLOW_S, Service

DOCUMENTS = [f"Document {number} about " + "rivers and mountains " * 60 for number in range(48)]
"""Some 9,000 tokens."""


def _new_trace() -> tuple[str, dict[str, str]]:
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01", "x-request-id": f"of-{trace_id}"}


def _lines(service: Service, suits: Callable[[dict[str, Any]], bool], timeout_s: float = 30) -> list[dict[str, Any]]:
    """The JSON lines of all replicas that suit, once there are any."""
    deadline = time.monotonic() + timeout_s
    while True:
        files = (service.folder / "logs").glob("replica_*.log")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        if found := [line for line in lines if suits(line)]:
            return found
        assert time.monotonic() < deadline, f"not among {len(lines)} lines"
        time.sleep(0.2)


def test_trace_of_a_long_list_has_a_span_for_each_of_its_shards_under_the_callers_trace(
    simulated: Service, collector: Collector
) -> None:
    trace_id, headers = _new_trace()
    response = simulated.post("which river", DOCUMENTS, headers, cache="off", timings=True)
    assert response.status_code == 200, response.text
    spans = collector.trace(trace_id)
    [root] = [one for one in spans if one.kind == Span.SPAN_KIND_SERVER]
    assert root.parent_span_id.hex() == headers["traceparent"].split("-")[2]
    assert (root.name, attributes(root)["http.response.status_code"]) == ("POST /v1/rerank", 200)
    shards = [one for one in spans if one.name == "shard"]
    assert len(shards) == 4
    assert {one.parent_span_id for one in shards} == {root.span_id}
    told = [attributes(one) for one in shards]
    assert len({one["reranker.replica"] for one in told}) == 4
    assert sum(one["reranker.pairs"] for one in told) == len(DOCUMENTS)
    # The answer says the same.
    timings = response.json()["timings"]
    assert Counter((one["reranker.replica"], one["reranker.pairs"], one["reranker.tokens"]) for one in told) == Counter(
        (one["replica"], one["pairs"], one["tokens"]) for one in timings["shards"]
    )
    assert sorted(index for one in timings["shards"] for index in one["documents"]) == list(range(len(DOCUMENTS)))
    assert all(one["engine_ms"] > 0 and one["attempts"] == 1 for one in timings["shards"])
    assert max(timings["stages_ms"], key=timings["stages_ms"].__getitem__) == "engine"
    # Every stage is there, within its parent's time.
    assert {one.name for one in spans} >= {"admit", "tokenize", "shard", "queue", "engine", "merge", "respond"}
    by_id = {one.span_id: one for one in spans}
    for one in spans:
        assert one is root or by_id[one.parent_span_id].start_time_unix_nano <= one.start_time_unix_nano
        assert one is root or one.end_time_unix_nano <= by_id[one.parent_span_id].end_time_unix_nano
    assert not any("river" in str(one) for one in spans)


def test_caller_who_does_not_sample_gets_no_trace(simulated: Service, collector: Collector) -> None:
    not_sampled, headers = _new_trace()
    headers["traceparent"] = headers["traceparent"][:-2] + "00"
    simulated.post("which river", DOCUMENTS[:1], headers)
    sampled, headers = _new_trace()
    simulated.post("which river", DOCUMENTS[:1], headers)
    collector.trace(sampled)
    assert not any(one.trace_id.hex() == not_sampled for one in collector.spans)


def test_refused_request_has_a_trace_and_a_line_with_our_code(simulated: Service, collector: Collector) -> None:
    trace_id, headers = _new_trace()
    response = simulated.post("which river", [], headers)
    assert (response.status_code, response.headers["x-request-id"]) == (400, f"of-{trace_id}")
    assert "total;dur=" in response.headers["server-timing"]
    [root] = [one for one in collector.trace(trace_id) if one.kind == Span.SPAN_KIND_SERVER]
    assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "invalid_request")
    [line] = _lines(simulated, lambda line: line.get("request_id") == f"of-{trace_id}")
    assert (line["event"], line["status"], line["error"]) == ("request_refused", 400, "invalid_request")
    assert line["trace_id"] == trace_id


def test_slow_request_has_the_same_id_in_the_ingress_and_in_the_replicas(simulated: Service) -> None:
    _, headers = _new_trace()
    many = [f"{times}. {text}" for times in range(10) for text in DOCUMENTS]
    response = simulated.post("privatequery", many, headers, cache="off")
    assert response.status_code == 200

    def told(event: str) -> list[dict[str, Any]]:
        mine = headers["x-request-id"]
        return _lines(simulated, lambda line: line.get("request_id") == mine and line["event"] == event)

    [line] = told("request_slow")
    assert line["total_ms"] >= SLOW_S * 1e3
    assert line["stages_ms"]["engine"] > 0
    assert line["documents"] == len(many)
    assert {one["replica"] for one in told("shard_slow")} <= {one["attempts"][0].split()[0] for one in line["shards"]}
    files = (simulated.folder / "logs").glob("*.log")
    assert not any("privatequery" in file.read_text() for file in files)


MINE = {"x-request-id": "mine"}
LONG = [f"{number} " + "word " * 6_000 for number in range(30)]  # not twice the same, which would be scored once


def test_request_id_comes_back_when_the_time_is_up(simulated: Service) -> None:
    late = {"query": "a", "documents": LONG, "timeout_s": 0.05}
    answer = httpx.post(f"{simulated.url}/v1/rerank", json=late, headers=MINE, timeout=60)
    assert (answer.status_code, answer.headers["x-request-id"]) == (504, "mine")


def test_request_id_comes_back_on_every_path(narrow: Service) -> None:
    """Whatever becomes of the request."""
    key = narrow.headers | MINE
    body = {"query": "a", "documents": ["b"]}
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        answers = [
            client.post("/v1/rerank", json=body, headers=key),
            client.post("/v1/rerank", json=body, headers=MINE),
            client.get("/nowhere", headers=key),
            client.get("/v1/rerank", headers=key),
            client.post("/v1/rerank", json={"query": "a", "documents": LONG}, headers=key),
            client.get("/v1/load", headers=key | {"x-long": "x" * 40_000}),
            client.get("/health", headers=MINE),
        ]
    assert [one.status_code for one in answers] == [200, 401, 404, 405, 413, 431, 200]
    assert {one.headers.get("x-request-id") for one in answers} == {"mine"}
