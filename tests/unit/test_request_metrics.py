"""What is counted of a request, before its answer goes out."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

from reranker.dialects import PATHS
from reranker.errors import NotReadyError, OverloadedError
from reranker.metrics import count_request
from reranker.record import RequestRecord
from reranker.types import EngineScores, RankedDocument, Ranking, Span
from tests.counted import Counted
from tests.unit.doors import BODY, KEYS, WordBackend, door, hang_up, visitor

COUNT = partial(count_request, ranking_paths=PATHS)


class CountingDoor:
    """A door whose requests are counted."""

    def __init__(self, **settings: Any) -> None:
        self.backend = WordBackend()
        self.counted = Counted()
        self.app = door(self.backend, count=COUNT, **settings)
        self.visitor = visitor(self.app)

    def requests(self) -> dict[tuple[str, ...], float]:
        return self.counted.series("reranker_requests_total")


async def test_answered_request_is_counted_with_its_documents_and_tokens() -> None:
    front = CountingDoor()
    async with front.visitor as client:
        await client.post("/v1/rerank", json=BODY)
        await client.post("/rerank", json={"query": "a", "texts": ["a", "b"]})
    counted = front.counted
    assert front.requests() == {("rerank", "answered"): 1, ("tei", "answered"): 1}
    assert counted("reranker_documents_total") == counted("reranker_request_documents_sum") == 5
    assert counted("reranker_prompt_tokens_total") == counted("reranker_request_tokens_sum") == 50
    assert counted("reranker_request_documents_count") == 2
    assert counted("reranker_request_documents_bucket", le="2.0") == 1
    assert counted.series("reranker_http_responses_total") == {("/v1/rerank", "200"): 1, ("/rerank", "200"): 1}
    stages = counted.series("reranker_stage_duration_seconds_count")
    assert stages == {(stage,): 2 for stage in ("read", "parse", "admit", "engine", "respond")}


def test_spans_are_counted_and_results_without_time_for_them() -> None:
    counted = Counted()
    results = (RankedDocument(0, 0.5, 0.0, spans=(Span(0, 1, 0.5, 0.0),) * 3), RankedDocument(1, 0.5, 0.0))
    record = RequestRecord(method="POST", path="/v1/rerank", status=200)
    record.rankings = [Ranking(results, spans_unscored=(1,))]
    with record.stage("evidence"):
        pass
    COUNT(record)
    assert counted("reranker_spans_total") == 3
    assert counted("reranker_spans_unscored_documents_total") == 1
    assert counted("reranker_stage_duration_seconds_count", stage="evidence") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [(OverloadedError(9, 3), "overloaded", "queue"), (NotReadyError(), "not_ready", "no_engine")],
)
async def test_refused_request_is_counted_with_its_reason(error: Exception, outcome: str, reason: str) -> None:
    front = CountingDoor()
    front.backend.error = error
    async with front.visitor as client:
        await client.post("/v1/rerank", json=BODY)
    assert front.requests() == {("rerank", outcome): 1}
    assert front.counted.series("reranker_admission_refusals_total") == {(reason,): 1}
    assert front.counted("reranker_documents_total") == 0


async def test_what_the_guard_refuses_and_what_is_no_ranking_are_counted() -> None:
    front = CountingDoor(keys=KEYS)
    async with front.visitor as client:
        await client.post("/v1/rerank", json=BODY)
        await client.get("/health")
        await client.get("/no/such/path")
    assert front.requests() == {("unknown", "unauthorized"): 1}
    assert front.counted.series("reranker_http_responses_total") == {
        ("/v1/rerank", "401"): 1,
        ("/health", "200"): 1,
        ("other", "401"): 1,
    }


async def test_request_whose_client_hangs_up_is_counted_once() -> None:
    front = CountingDoor()
    front.backend.go_on.clear()
    await hang_up(front.app, front.backend)
    assert front.requests() == {("rerank", "client_gone"): 1}


async def test_answer_is_counted_before_it_goes_out() -> None:
    """An ingress killed right after an answer must not have forgotten it."""
    seen: list[float] = []
    counted = Counted()
    app = door(WordBackend(), count=COUNT)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            seen.append(counted("reranker_documents_total"))
            await send(message)

        await app(scope, receive, noted)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=watched), base_url="http://door") as client:
        await client.post("/v1/rerank", json=BODY)
    assert set(seen) == {3}


def test_shards_are_counted_by_what_became_of_them() -> None:
    record = RequestRecord("id", "POST", "/v1/rerank")
    for number, seconds in enumerate((1.0, 1.0, 4.0)):
        shard = record.shard(10, 1_000, np.arange(10, dtype=np.int32))
        attempt = shard.send()
        if number == 1:  # its replica is lost, and another one takes it
            attempt.end("lost")
            attempt = shard.send()
        if number == 2:  # it lags, and both are under way
            shard.send(hedge=True).end("dropped")
        attempt.replica = f"replica {number}"
        shard.answered(attempt, EngineScores.nothing(10))
        shard.attempts[0].sent_s = attempt.sent_s = 0.0
        attempt.ended_s = seconds
    record.status = 200
    counted = Counted()
    COUNT(record)
    assert counted("reranker_scored_pairs_total") == 30
    assert counted("reranker_scored_tokens_total") == 3_000
    assert [counted(f"reranker_{one}_shards_total") for one in ("retried", "hedged", "dropped")] == [1, 1, 1]
    assert counted("reranker_request_shards_sum") == counted("reranker_request_replicas_sum") == 3
    assert counted("reranker_slowest_shard_ratio_sum") == 4.0
    assert counted("reranker_slowest_shard_ratio_bucket", le="3.0") == 0


def test_no_label_holds_what_a_client_chose() -> None:
    """A series for each path that somebody thinks of would fill Prometheus."""
    counted = Counted()
    for number in range(50):
        record = RequestRecord("id", "POST", f"/v1/rerank/{number}")
        record.status = 404
        COUNT(record)
    assert counted.series("reranker_http_responses_total") == {("other", "404"): 50}
    assert counted.series("reranker_requests_total") == {}
