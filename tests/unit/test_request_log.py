"""One line for each request that was refused, failed or slow, with its id, and never a text."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from deployments.telemetry import RequestLog, join_serve, log_shard
from reranker.config import ObservabilityConfig
from reranker.errors import DeadlineExceededError, OverloadedError
from reranker.record import RequestRecord, request_id
from reranker.types import EngineScores, Shard, ShardTerms
from tests.unit.doors import BODY, KEYS, WordBackend, door, visitor

EVENTS = ("request_refused", "request_failed", "request_slow", "request_abandoned")


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(one) for one in caplog.records if getattr(one, "event", None) in EVENTS]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_each_refused_or_failed_request_has_one_line_and_a_good_one_has_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = WordBackend()
    key = {"authorization": "Bearer team-key", "x-request-id": "mine"}
    async with visitor(door(backend, RequestLog(ObservabilityConfig()), keys=KEYS)) as client:
        await client.post("/v1/rerank", json=BODY, headers=key)
        await client.post("/v1/rerank", json=BODY)
        await client.post("/v1/rerank", json={"query": 1}, headers=key)
        for error in (OverloadedError(9.5, 4), DeadlineExceededError(3), ValueError("a bug")):
            backend.error = error
            await client.post("/v1/rerank", json=BODY, headers=key)
        await client.get("/nowhere", headers=key)
        await client.get("/health")  # 200
    assert [(one["event"], one["status"], one["error"], one["levelname"]) for one in _lines(caplog)] == [
        ("request_refused", 401, "unauthorized", "INFO"),
        ("request_refused", 400, "invalid_request", "INFO"),
        ("request_refused", 429, "overloaded", "INFO"),
        ("request_failed", 504, "deadline_exceeded", "ERROR"),
        ("request_failed", 500, "internal_error", "ERROR"),
        ("request_refused", 404, "http_404", "INFO"),
    ]
    assert [one["request_id"] for one in _lines(caplog)[1:]] == ["mine"] * 5


async def test_line_has_stages_and_sizes_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    backend = WordBackend()
    backend.error = OverloadedError(9.5, 4)
    body = {"query": "privatequery", "documents": ["privatedocument"] * 3, "priority": "bulk"}
    async with visitor(door(backend, RequestLog(ObservabilityConfig()))) as client:
        await client.post("/v1/rerank?private=1", json=body)
    [line] = _lines(caplog)
    assert (line["documents"], line["priority"], line["dialect"], line["caller"]) == (3, "bulk", "rerank", "anonymous")
    assert list(line["stages_ms"]) == ["read", "parse", "admit", "engine"]
    assert line["total_ms"] >= max(line["stages_ms"].values())
    assert "of anonymous refused: 429 overloaded" in line["message"]
    assert "private" not in str(line)


@pytest.mark.parametrize("several", [True, False])
def test_line_names_the_model_where_there_are_several(caplog: pytest.LogCaptureFixture, several: bool) -> None:
    """With one it would be the same in every line. A request that is refused before its model is known names none."""
    for model in ("best", ""):
        record = RequestRecord("mine", "POST", "/v1/rerank", model=model, status=504, error="deadline_exceeded")
        record.end()
        RequestLog(ObservabilityConfig(), several_models=several)(record)
    assert [one.get("model") for one in _lines(caplog)] == ["best" if several else None, None]
    assert ["; model best" in one["message"] for one in _lines(caplog)] == [several, False]


@pytest.mark.parametrize(("slow_s", "lines"), [(1e-9, 1), (60, 0), (None, 0)])
async def test_slow_request_has_a_line_where_that_is_wanted(
    caplog: pytest.LogCaptureFixture, slow_s: float | None, lines: int
) -> None:
    async with visitor(door(WordBackend(), RequestLog(ObservabilityConfig(slow_request_s=slow_s)))) as client:
        await client.post("/v1/rerank", json=BODY)
    assert [one["event"] for one in _lines(caplog)] == ["request_slow"] * lines


def test_line_of_many_shards_names_the_slowest(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("mine", "POST", "/v1/rerank")
    for number in range(40):
        attempt = record.shard(number, 10 * number, np.zeros(number, dtype=np.int32)).send()
        attempt.replica, attempt.sent_s = f"replica-{number}", record.began_s
        attempt.end("dropped")
        attempt.ended_s = record.began_s + number
    record.status, record.error = 504, "deadline_exceeded"
    record.end()
    RequestLog(ObservabilityConfig())(record)
    [line] = _lines(caplog)
    assert (line["shard_count"], len(line["shards"])) == (40, 32)
    assert line["shards"][0]["attempts"] == ["replica-39 dropped"]
    assert "replica-39 dropped" in line["message"]


def test_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("mine", "GET", "/a\nERROR all is lost\x1b[2J" + "x" * 9_000)
    record.status, record.error = 404, "http_404"
    record.end()
    RequestLog(ObservabilityConfig())(record)
    [line] = _lines(caplog)
    assert line["path"].startswith("/a?ERROR all is lost?[2Jxxx")
    assert len(line["path"]) == 200


@pytest.mark.parametrize(
    ("scored", "engine_s", "slow_s", "event"),
    [(2, 0.1, 1, None), (2, 2, 1, "shard_slow"), (2, 2, None, None), (1, 0.1, None, "shard_out_of_time")],
)
def test_replica_tells_of_slow_and_late_shards_under_their_requests_id(
    caplog: pytest.LogCaptureFixture, scored: int, engine_s: float, slow_s: float | None, event: str | None
) -> None:
    none = np.zeros(0, dtype=np.int32)
    shard = Shard(none, none, np.zeros(4, dtype=np.int32), np.array([0, 2, 4], dtype=np.int32))
    scores = EngineScores(np.zeros(2, np.float32), np.arange(2) < scored, 0.5, engine_s)
    log_shard(shard, ShardTerms(request_id="mine"), scores, slow_s)
    told = [(vars(one)["event"], vars(one)["request_id"], vars(one)["tokens"]) for one in caplog.records]
    assert told == ([(event, "mine", 4)] if event else [])


def test_in_a_replica_all_lines_go_through_serve_with_the_id_of_their_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("reranker", "deployments"):  # as they were, after the test
        for attribute in ("handlers", "level", "propagate"):
            monkeypatch.setattr(logging.getLogger(name), attribute, getattr(logging.getLogger(name), attribute))
    serve = logging.getLogger("ray.serve")
    monkeypatch.setattr(serve, "handlers", [caplog.handler])
    monkeypatch.setattr(serve, "level", logging.INFO)
    monkeypatch.setattr(serve, "propagate", False)
    join_serve()
    token = request_id.set("mine")
    logging.getLogger("reranker.cache.redis").warning("Redis does not answer")
    request_id.reset(token)
    logging.getLogger("deployments.engine_replica").info("no request")
    told = [(one.name, getattr(one, "request_id", None)) for one in caplog.records]
    assert told == [("reranker.cache.redis", "mine"), ("deployments.engine_replica", None)]
