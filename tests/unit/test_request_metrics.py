"""What is counted of a request, before its answer goes out."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from reranker.errors import NotReadyError, OverloadedError
from reranker.metrics import catalog
from reranker.metrics.requests import record_request
from reranker.record import Timeline
from reranker.types import EngineScores
from tests.recorders import KeptMetrics
from tests.unit.doors import BODY, KEYS, WordBackend, door, hang_up, visitor


class Counted:
    """A door whose requests are counted."""

    def __init__(self, **settings: Any) -> None:
        self.backend = WordBackend()
        self.kept = KeptMetrics()
        self.app = door(self.backend, count=lambda one: record_request(self.kept, one), **settings)
        self.visitor = visitor(self.app)

    def requests(self) -> dict[tuple[str, ...], float]:
        return self.kept.labelled[catalog.REQUESTS]


@pytest.fixture
def counted() -> Counted:
    return Counted()


async def test_answered_request_is_counted_with_its_documents_and_tokens(counted: Counted) -> None:
    async with counted.visitor as client:
        await client.post("/v1/rerank", json=BODY)
        await client.post("/rerank", json={"query": "a", "texts": ["a", "b"]})
    kept = counted.kept
    assert counted.requests() == {("rerank", "answered"): 1, ("tei", "answered"): 1}
    assert kept.counts[catalog.DOCUMENTS] == 5
    assert kept.counts[catalog.PROMPT_TOKENS] == 50
    assert kept.observed[catalog.REQUEST_DOCUMENTS] == [3, 2]
    assert {labels[0] for labels in kept.labelled[catalog.HTTP_RESPONSES]} == {"/v1/rerank", "/rerank"}
    assert {"read", "parse", "admit", "engine", "respond"} == {
        labels[0] for labels in kept.labelled[catalog.STAGE_SECONDS]
    }


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [(OverloadedError(9, 3), "overloaded", "queue"), (NotReadyError(), "not_ready", "no_engine")],
)
async def test_refused_request_is_counted_with_its_reason(error: Exception, outcome: str, reason: str) -> None:
    counted = Counted()
    counted.backend.error = error
    async with counted.visitor as client:
        await client.post("/v1/rerank", json=BODY)
    assert counted.requests() == {("rerank", outcome): 1}
    assert counted.kept.labelled[catalog.ADMISSION_REFUSALS] == {(reason,): 1}
    assert catalog.DOCUMENTS not in counted.kept.counts


async def test_what_the_guard_refuses_and_what_is_no_ranking_are_counted() -> None:
    counted = Counted(keys=KEYS)
    async with counted.visitor as client:
        await client.post("/v1/rerank", json=BODY)
        await client.get("/health")
        await client.get("/no/such/path")
    assert counted.requests() == {("unknown", "unauthorized"): 1}
    assert counted.kept.labelled[catalog.HTTP_RESPONSES] == {
        ("/v1/rerank", "401"): 1,
        ("/health", "200"): 1,
        ("other", "401"): 1,
    }


async def test_request_whose_client_hangs_up_is_counted_once() -> None:
    counted = Counted()
    counted.backend.go_on.clear()
    await hang_up(counted.app, counted.backend)
    assert counted.requests() == {("rerank", "client_gone"): 1}


async def test_answer_is_counted_before_it_goes_out() -> None:
    """An ingress killed right after an answer must not have forgotten it."""
    seen: list[float] = []
    kept = KeptMetrics()
    app = door(WordBackend(), count=lambda one: record_request(kept, one))

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            seen.append(kept.counts[catalog.DOCUMENTS])
            await send(message)

        await app(scope, receive, noted)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=watched), base_url="http://door") as client:
        await client.post("/v1/rerank", json=BODY)
    assert set(seen) == {3}


def test_shards_are_counted_by_what_became_of_them() -> None:
    timeline = Timeline("id", "POST", "/v1/rerank")
    for number, seconds in enumerate((1.0, 1.0, 4.0)):
        shard = timeline.shard(10, 1_000, np.arange(10, dtype=np.int32))
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
    timeline.status = 200
    kept = KeptMetrics()
    record_request(kept, timeline)
    assert kept.counts[catalog.SCORED_PAIRS] == 30
    assert kept.counts[catalog.SCORED_TOKENS] == 3_000
    assert [kept.counts[one] for one in (catalog.RETRIED_SHARDS, catalog.HEDGED_SHARDS, catalog.DROPPED_SHARDS)] == [
        1,
        1,
        1,
    ]
    assert kept.observed[catalog.REQUEST_SHARDS] == kept.observed[catalog.REQUEST_REPLICAS] == [3]
    assert kept.observed[catalog.SLOWEST_SHARD] == [4.0]
