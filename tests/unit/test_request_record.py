"""One record of a request, from its head to its answer, whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from reranker.errors import ReplicaLostError
from reranker.ranking.ranker import Ranker
from reranker.record import STAGES, Interval, RequestRecord, ShardRecord, covered_s
from reranker.types import ANONYMOUS, Caller, EngineScores, Ranking, RankRequest
from tests.unit.doors import BODY, KEYS, WordBackend, door, hang_up, visitor
from tests.unit.fleets import Call, FakeFleet, by_length, never
from tests.unit.rankers import CONFIG, RENDERER, TEXTS, until


async def _ranked(fleet: FakeFleet, record: RequestRecord, **fields: Any) -> None:
    request = RankRequest("which is longest", TEXTS, **fields)
    await Ranker(CONFIG, RENDERER, fleet).rank([request], ANONYMOUS, record)


async def test_every_document_is_in_one_shard_of_a_replica_that_is_named() -> None:
    async def in_turn(call: Call) -> EngineScores:
        answer = await by_length(call)
        return EngineScores(answer.logits, answer.scored, queue_s=0.25, engine_s=0.5)

    fleet, record = FakeFleet(4, in_turn), RequestRecord("mine")
    await _ranked(fleet, record)
    record.end()
    documents = Counter(index for shard in record.shards for index in shard.documents)
    assert documents == Counter(range(len(TEXTS)))
    assert len(record.shards) > 1
    assert [shard.replica for shard in record.shards] == fleet.replicas_used
    assert [shard.tokens for shard in record.shards] == [call.shard.work_tokens for call in fleet.calls]
    assert {(shard.queue_s, shard.engine_s) for shard in record.shards} == {(0.25, 0.5)}
    stages = {"admit", "tokenize", "queue", "engine", "merge"}
    assert list(record.stages_s()) == [one for one in STAGES if one in stages]


async def test_lost_replica_is_an_attempt_of_its_own() -> None:
    async def first_dies(call: Call) -> EngineScores:
        if call.number == 0:
            raise ReplicaLostError
        return await by_length(call)

    record = RequestRecord()
    await _ranked(FakeFleet(2, first_dies), record)
    attempts = next(shard.attempts for shard in record.shards if len(shard.attempts) > 1)
    assert [one.outcome for one in attempts] == ["lost", "answered"]
    assert attempts[0].replica != attempts[1].replica


async def test_what_happened_before_an_error_is_kept() -> None:
    """Some shards answered, some under way, when one cannot be scored at all."""

    async def one_breaks(call: Call) -> EngineScores:
        if call.number == 0:
            return await by_length(call)
        if call.number == 1:
            await asyncio.sleep(0.01)
            raise ValueError("a bug")
        return await never(call)

    record = RequestRecord()
    with pytest.raises(ValueError, match="a bug"):
        await _ranked(FakeFleet(3, one_breaks), record)
    assert [shard.attempts[0].outcome for shard in record.shards] == ["answered", "failed", "dropped"]
    assert all(shard.total_s > 0 for shard in record.shards)
    assert "tokenize" in record.stages_s()


async def test_request_that_is_given_up_has_its_shards_dropped() -> None:
    fleet, record = FakeFleet(2, never), RequestRecord()
    ranking = asyncio.create_task(_ranked(fleet, record))
    await until(lambda: len(fleet.calls) == 2)
    ranking.cancel()
    await asyncio.gather(ranking, return_exceptions=True)
    assert [[one.outcome for one in shard.attempts] for shard in record.shards] == [["dropped"]] * 2


def test_stage_that_ends_in_an_error_is_timed_too() -> None:
    record = RequestRecord()
    with pytest.raises(ValueError, match="no"), record.stage("parse"):
        raise ValueError("no")
    assert list(record.stages_s()) == ["parse"]


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([], 0),
        ([(0, 1)], 1),
        ([(0, 1), (2, 4)], 3),
        ([(0, 3), (1, 2)], 3),
        ([(1, 3), (0, 2)], 3),
        ([(0, 1), (1, 2)], 2),
    ],
)
def test_what_overlaps_counts_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert covered_s([Interval("engine", *one) for one in intervals]) == seconds


def test_time_in_a_replica_is_put_in_the_middle_of_its_call() -> None:
    """Only durations come from there: the clocks of two machines differ."""
    shard = ShardRecord(pairs=1, tokens=5, document_of_pair=np.zeros(1, dtype=np.int32))
    attempt = shard.send()
    shard.answered(attempt, EngineScores(np.zeros(1, np.float32), np.ones(1, np.bool_), 1.0, 2.0))
    attempt.sent_s, attempt.ended_s = 10.0, 14.0
    assert list(shard.intervals()) == [Interval("queue", 10.5, 11.5), Interval("engine", 11.5, 13.5)]


async def test_each_request_is_told_of_once_with_what_became_of_it() -> None:
    told: list[RequestRecord] = []
    async with visitor(door(WordBackend(), told.append, keys=KEYS), {"x-request-id": "mine"}) as client:
        key = {"authorization": "Bearer team-key"}
        await client.post("/v1/rerank", json=BODY, headers=key)
        await client.post("/v1//rerank/", json=BODY)
        await client.post("/v1/rerank", json={"query": 1}, headers=key)
        await client.get("/nowhere", headers=key)
        await client.get("/v1/rerank", headers=key)
    facts = [(one.path, one.status, one.error, one.caller, one.dialect, one.documents) for one in told]
    assert facts == [
        ("/v1/rerank", 200, "", "team", "rerank", 3),
        ("/v1/rerank", 401, "unauthorized", "", "", 0),
        ("/v1/rerank", 400, "invalid_request", "team", "rerank", 0),
        ("/nowhere", 404, "http_404", "team", "", 0),
        ("/v1/rerank", 405, "http_405", "team", "", 0),
    ]
    assert {one.request_id for one in told} == {"mine"}
    assert all(one.ended_s is not None for one in told)
    assert [len(one.rankings) for one in told] == [1, 0, 0, 0, 0]


async def test_bug_is_told_of_as_500() -> None:
    told: list[RequestRecord] = []
    backend = WordBackend()
    backend.error = ValueError("a bug")
    async with visitor(door(backend, told.append)) as client:
        assert (await client.post("/v1/rerank", json=BODY)).headers["x-request-id"] == told[0].request_id
    assert (told[0].status, told[0].error) == (500, "internal_error")
    assert list(told[0].stages_s()) == ["read", "parse", "admit", "engine"]


async def test_client_that_goes_away_is_told_of_as_499() -> None:
    told: list[RequestRecord] = []
    backend = WordBackend()
    backend.go_on.clear()
    assert not await hang_up(door(backend, told.append), backend)
    assert [(one.status, one.error, one.documents) for one in told] == [(499, "client_gone", 3)]


async def test_what_tells_of_a_request_cannot_fail_it(caplog: pytest.LogCaptureFixture) -> None:
    told: list[RequestRecord] = []

    def broken(_: RequestRecord) -> None:
        raise RuntimeError("full disk")

    with caplog.at_level(logging.ERROR):
        async with visitor(door(WordBackend(), broken, told.append)) as client:
            assert (await client.post("/v1/rerank", json=BODY)).status_code == 200
    assert len(told) == 1
    assert "cannot be told of" in caplog.text


async def test_request_of_many_lists_is_added_up_off_the_event_loop() -> None:
    """With 10,000 it takes a tenth of a second, in which nobody would be answered."""
    threads: list[threading.Thread] = []

    class Backend(WordBackend):
        shards = 1

        async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
            record.shards += [ShardRecord(1, 1) for _ in range(self.shards)]
            return await super().rank(lists, caller, record)

    def tell(_: RequestRecord) -> None:
        threads.append(threading.current_thread())

    backend = Backend()
    async with visitor(door(backend, tell, count=tell)) as client:
        assert (await client.post("/v1/rerank", json=BODY)).status_code == 200
        assert threads == [threading.current_thread()] * 2
        backend.shards = 10_000
        assert (await client.post("/v1/rerank", json=BODY)).status_code == 200
    assert len(threads) == 4
    assert threading.current_thread() not in threads[2:]


@pytest.mark.parametrize("more", [{}, {"top_k": 1}, {"raw_scores": False}])
async def test_answer_has_timings_where_they_are_asked_for(more: dict[str, Any]) -> None:
    async with visitor(door(WordBackend())) as client:
        timings = (await client.post("/v1/rerank", json=BODY | more | {"timings": True})).json()["timings"]
        assert "timings" not in (await client.post("/v1/rerank", json=BODY | more)).json()
    assert list(timings["stages_ms"]) == ["read", "parse", "admit", "engine"]
    assert timings["total_ms"] >= max(timings["stages_ms"].values())
    assert timings["shards"] == []  # the double has none


@pytest.mark.parametrize(
    ("path", "body"),
    [("/rerank", {"query": "a", "texts": ["a"]}), ("/score", {"text_1": "a", "text_2": "a"})],
)
async def test_timings_do_no_harm_in_dialects_without_a_place_for_them(path: str, body: dict[str, Any]) -> None:
    async with visitor(door(WordBackend())) as client:
        answers = [(await client.post(path, json=body | more)).json() for more in ({}, {"timings": True})]
    with_id = [one if isinstance(one, list) else one | {"id": "", "created": 0} for one in answers]
    assert with_id[0] == with_id[1]
