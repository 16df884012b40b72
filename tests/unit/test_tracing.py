"""Spans of requests: who is traced, what is in a trace, and what a collector that is away costs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deployments.telemetry import Tracer
from reranker.config import TracingConfig
from reranker.record import RequestRecord
from reranker.types import EngineScores
from tests.integration.conftest import free_port
from tests.unit.doors import BODY, KEYS, WordBackend, door, visitor
from tools.trace import draw

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"


def _record(traceparent: str = "", shards: int = 0) -> RequestRecord:
    record = RequestRecord("mine", "POST", "/v1/rerank")
    record.traceparent = traceparent
    with record.stage("read"), record.stage("tokenize"):
        pass
    for number in range(shards):
        shard = record.shard(3, 30, np.array([number, number, number + 1], dtype=np.int32))
        attempt = shard.send()
        attempt.replica = f"replica-{number}"
        shard.answered(attempt, EngineScores(np.zeros(3, np.float32), np.ones(3, np.bool_), 0.0, 0.0))
    record.status = 200
    record.end()
    return record


async def _spans(folder: Path, records: Sequence[RequestRecord], sample_ratio: float = 1) -> list[dict[str, Any]]:
    file = folder / "spans.jsonl"
    config = TracingConfig(exporter="file", file=str(file), sample_ratio=sample_ratio, max_per_s=1e9)
    tracer = Tracer(config, "ingress-1")
    for record in records:
        tracer(record)
    await tracer.aclose()
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_trace_has_a_span_for_each_stage_and_shard_under_one_root(tmp_path: Path) -> None:
    record = _record(SAMPLED, shards=4)
    spans = await _spans(tmp_path, [record])
    assert Counter(one["name"] for one in spans) == Counter(
        {"POST /v1/rerank": 1, "read": 1, "tokenize": 1, "shard": 4, "queue": 4, "engine": 4}
    )
    [root] = [one for one in spans if one["name"] == "POST /v1/rerank"]
    assert {one["context"]["trace_id"] for one in spans} == {f"0x{TRACE}"}
    assert record.trace_id == TRACE
    assert root["parent_id"] == "0xb7ad6b7169203331"
    shards = [one for one in spans if one["name"] == "shard"]
    assert {one["parent_id"] for one in shards} == {root["context"]["span_id"]}
    assert {one["attributes"]["reranker.replica"] for one in shards} == {f"replica-{number}" for number in range(4)}
    assert {(one["attributes"]["reranker.pairs"], one["attributes"]["reranker.documents"]) for one in shards} == {
        (3, 2)
    }
    engines = [one["parent_id"] for one in spans if one["name"] == "engine"]
    assert sorted(engines) == sorted(one["context"]["span_id"] for one in shards)
    assert all(root["start_time"] <= one["start_time"] <= one["end_time"] <= root["end_time"] for one in spans)
    assert root["resource"]["attributes"]["service.instance.id"] == "ingress-1"


@pytest.mark.parametrize(
    ("traceparent", "ratio", "traced"),
    [(SAMPLED, 0, 1), (NOT_SAMPLED, 1, 0), ("", 0, 0), ("", 1, 1), ("00-zz-1-01", 1, 1), ("00-zz-1-01", 0, 0)],
)
async def test_caller_decides_and_without_one_chance_does(
    tmp_path: Path, traceparent: str, ratio: float, traced: int
) -> None:
    spans = await _spans(tmp_path, [_record(traceparent)], sample_ratio=ratio)
    assert len({one["context"]["trace_id"] for one in spans}) == traced


async def test_chance_is_limited_and_callers_are_not(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    tracer = Tracer(TracingConfig(exporter="file", file=str(file), sample_ratio=1, max_per_s=0.001))
    for traceparent in ("", SAMPLED, "", SAMPLED, ""):
        tracer(_record(traceparent))
    await tracer.aclose()
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    roots = [one["parent_id"] for one in spans if one["name"] == "POST /v1/rerank"]
    assert len(roots) == 3
    assert roots.count(None) == 1


async def test_failed_request_has_a_span_with_our_code(tmp_path: Path) -> None:
    record = _record(SAMPLED)
    record.status, record.error = 429, "overloaded"
    lost = record.shard(1, 5, np.zeros(1, dtype=np.int32))
    lost.send().end("lost")
    lost.send().end("dropped")
    [root] = [one for one in await _spans(tmp_path, [record]) if one["name"] == "POST /v1/rerank"]
    assert root["status"] == {"status_code": "ERROR", "description": "overloaded"}
    assert root["attributes"]["error.type"] == "overloaded"
    assert root["attributes"]["http.response.status_code"] == 429


@pytest.mark.parametrize("several", [True, False])
async def test_root_names_the_model_where_there_are_several(tmp_path: Path, several: bool) -> None:
    file = tmp_path / "spans.jsonl"
    tracer = Tracer(TracingConfig(exporter="file", file=str(file), sample_ratio=1), several_models=several)
    record = _record(SAMPLED)
    record.model = "best"
    tracer(record)
    await tracer.aclose()
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    named = [one["attributes"]["reranker.model"] for one in spans if "reranker.model" in one["attributes"]]
    assert named == ["best"] * several


async def test_shard_that_was_sent_twice_says_what_became_of_either(tmp_path: Path) -> None:
    record = RequestRecord("mine", "POST", "/v1/rerank")
    shard = record.shard(1, 5, np.zeros(1, dtype=np.int32))
    shard.send().end("lost")
    shard.answered(shard.send(), EngineScores(np.zeros(1, np.float32), np.ones(1, np.bool_)))
    record.end()
    [span] = [one for one in await _spans(tmp_path, [record]) if one["name"] == "shard"]
    assert [event["name"] for event in span["events"]] == ["lost", "answered"]
    assert span["status"]["status_code"] == "UNSET"


async def test_trace_from_a_file_can_be_drawn_without_any_other_program(tmp_path: Path) -> None:
    spans = await _spans(tmp_path, [_record(SAMPLED, shards=2)])
    [root] = [one for one in spans if one["name"] == "POST /v1/rerank"]
    lines = list(draw(spans, root))
    assert [line.split()[0] for line in lines[:1] + [one for one in lines if "replica=" in one]] == [
        "POST",
        *["shard"] * 2,
    ]
    assert len(lines) == len(spans)
    assert all(" ms " in line for line in lines)
    assert "replica=replica-1 pairs=3 tokens=30 attempts=1" in "".join(lines)


async def test_no_text_of_a_request_is_in_its_spans(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    tracer = Tracer(TracingConfig(exporter="file", file=str(file), sample_ratio=1, max_per_s=1e9))
    body = {"query": "privatequery", "documents": ["privatedocument"], "instruction": "privateinstruction"}
    async with visitor(door(WordBackend(), tracer, keys=KEYS)) as client:
        for key in ("team-key", "private-wrong-key"):
            await client.post("/v1/rerank?private=1", json=body, headers={"authorization": f"Bearer {key}"})
        await client.post("/private/path", json=body, headers={"authorization": "Bearer team-key"})
        await client.get("/health")
    await tracer.aclose()
    spans = file.read_text()
    assert spans.count('"http.request.method"') == 3
    assert "private" not in spans
    assert "team-key" not in spans


async def test_dead_collector_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1/traces"
    tracer = Tracer(TracingConfig(exporter="otlp", endpoint=nowhere, sample_ratio=1, max_per_s=1e9))
    with caplog.at_level(logging.DEBUG):
        async with visitor(door(WordBackend(), tracer)) as client:
            for _ in range(20):
                assert (await client.post("/v1/rerank", json=BODY)).status_code == 200
        await tracer.aclose()
    told = [one for one in caplog.records if one.levelno >= logging.INFO and "httpx" not in one.name]
    assert [one.name for one in told] == ["deployments.telemetry"]
    assert "did not get through" in told[0].getMessage()


async def test_callers_trace_is_named_in_logs_even_where_nothing_is_exported() -> None:
    record = _record(SAMPLED)
    tracer = Tracer(TracingConfig())
    tracer(record)
    await tracer.aclose()
    assert record.trace_id == TRACE


@pytest.mark.parametrize(
    "wrong",
    [
        {"exporter": "otlp", "endpoint": "collector:4318"},
        {"exporter": "otlp", "endpoint": "http://user:pass@collector:4318/v1/traces"},
        {"exporter": "file"},
        {"exporter": "console", "file": "spans"},
        {"endpoint": "http://collector:4318/v1/traces"},
        {"exporter": "zipkin"},
    ],
)
def test_contradictory_settings_are_refused_without_quoting_them(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as refused:
        TracingConfig.model_validate(wrong)
    assert "pass@" not in str(refused.value)
