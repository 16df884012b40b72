"""A pair that was scored is not scored again, whoever asks, and never is a score wrong or lost because of that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reranker.admission import Admission
from reranker.cache.memory import MemoryStore
from reranker.cache.score_cache import ScoreCache
from reranker.config import CacheConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidScoreError, ServiceError
from reranker.pipeline import look_up, rerank, share_to_score
from reranker.scatter import Scatter
from reranker.types import EngineScores, Ranking, RankRequest, ReplicaLoad
from tests.recorders import KeptMetrics
from tests.unit.fleets import Call, FakeFleet, by_length, movable_clock, never, scores
from tests.unit.test_pipeline import CONFIG, RENDERER

TEXTS = tuple("capital " * (i % 7 + 1) + f"{i:03d}" for i in range(200))
LONG_DOCUMENT = " ".join(f"china {number}" for number in range(200))


class Ingress:
    """What an ingress does with a list, without Ray and HTTP: one cache, one fleet."""

    def __init__(
        self, act: Callable[[Call], Awaitable[EngineScores]] = by_length, config: RerankerConfig = CONFIG
    ) -> None:
        self.fleet = FakeFleet(2, act)
        self.memory = MemoryStore(2**20, KeptMetrics())
        self.cache = ScoreCache(self.memory)
        self.model: str | None = self.fleet.model
        self.config = config
        self._admission = Admission(CONFIG.admission, CONFIG.priorities)
        self._scatter = Scatter(self.fleet, CONFIG.scatter)

    @property
    def pairs(self) -> int:
        """Pairs that engines were sent."""
        return sum(len(call.shard) for call in self.fleet.calls)

    async def rank(self, request: RankRequest, caller: str = "") -> Ranking:
        async with look_up(request, self.cache, RENDERER, self.config, self.model, caller) as lookup:
            work_bytes = round(1_000 * share_to_score(request, lookup))
            with self._admission.permit(work_bytes, request.priority, 5, ReplicaLoad()) as permit:
                return await rerank(request, permit, RENDERER, self._scatter, self.config, lookup)

    def require_idle(self) -> None:
        assert self._admission.tokens_in_flight == 0
        self.cache.check_integrity()
        self._scatter.check_integrity(0)
        self.fleet.require_idle()


def _request(documents: Sequence[str] = TEXTS[:20], **fields: Any) -> RankRequest:
    return RankRequest("which is longest", tuple(documents), **fields)


class Gate:
    """Replicas that score when the gate is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self, call: Call) -> EngineScores:
        await self._open.wait()
        return await by_length(call)

    def open(self) -> None:
        self._open.set()


async def _until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not so():  # noqa: ASYNC110 - the renderer's thread has no event to wait for
            await asyncio.sleep(0.001)


async def test_list_seen_before_is_answered_without_an_engine() -> None:
    ingress = Ingress()
    first = await ingress.rank(_request())
    again = await ingress.rank(_request())
    assert ingress.pairs == first.pairs == 20
    assert (again.pairs, again.shards, again.replicas) == (0, 0, 0)
    assert (again.cached_documents, again.missed_documents) == (20, 0)
    assert again.results == first.results  # the very same floats
    assert again.prompt_tokens == first.prompt_tokens
    ingress.require_idle()


async def test_only_what_is_new_in_a_list_is_scored() -> None:
    ingress = Ingress()
    await ingress.rank(_request(TEXTS[:20]))
    ranking = await ingress.rank(_request((*TEXTS[10:30], TEXTS[12])))
    assert (ranking.pairs, ranking.cached_documents, ranking.missed_documents) == (10, 10, 10)
    assert ranking.deduplicated_pairs == 1
    whole = await Ingress().rank(_request((*TEXTS[10:30], TEXTS[12])))
    assert ranking.results == whole.results


async def test_windows_and_cuts_come_back_from_the_cache_as_they_were() -> None:
    ingress = Ingress()
    for fields in ({"long_documents": "windows"}, {"max_document_tokens": 9}, {"aggregate": "mean"}):
        request = _request((LONG_DOCUMENT, *TEXTS[:3]), **fields)
        first, again = await ingress.rank(request), await ingress.rank(request)
        assert again.results == first.results
        assert again.pairs == 0
        assert (again.truncated_documents, again.windowed_documents, again.prompt_tokens) == (
            first.truncated_documents,
            first.windowed_documents,
            first.prompt_tokens,
        )


async def test_aggregates_share_the_windows_scores() -> None:
    ingress = Ingress()
    await ingress.rank(_request((LONG_DOCUMENT,), long_documents="windows", aggregate="max"))
    mean = await ingress.rank(_request((LONG_DOCUMENT,), long_documents="windows", aggregate="mean"))
    alone = await Ingress().rank(_request((LONG_DOCUMENT,), long_documents="windows", aggregate="mean"))
    assert mean.pairs == 0
    assert mean.results == alone.results


@pytest.mark.parametrize(
    "other",
    [
        {"query": "another"},
        {"instruction": "another"},
        {"truncation_side": "start"},
        {"long_documents": "windows"},
        {"max_document_tokens": 100},
        {"overlap_tokens": 1},
        {"max_windows": 1},
    ],
)
async def test_request_that_differs_in_what_scores_depend_on_is_scored(other: dict[str, Any]) -> None:
    ingress = Ingress()
    await ingress.rank(_request())
    ranking = await ingress.rank(replace(_request(), **other))
    assert (ranking.cached_documents, ranking.pairs) == (0, 20)


@pytest.mark.parametrize(
    "other", [{"top_n": 3}, {"score_threshold": 0.5}, {"priority": "bulk"}, {"aggregate": "mean"}, {"timeout_s": 9}]
)
async def test_request_that_differs_in_what_scores_do_not_depend_on_is_not(other: dict[str, Any]) -> None:
    ingress = Ingress()
    await ingress.rank(_request())
    assert (await ingress.rank(replace(_request(), **other))).pairs == 0


async def test_named_instruction_is_its_text() -> None:
    ingress = Ingress()
    await ingress.rank(_request(instruction="@medical"))
    assert (await ingress.rank(_request(instruction=CONFIG.model.instructions["medical"]))).pairs == 0


@pytest.mark.parametrize(
    ("mode", "uses", "remembers"),
    [(None, True, True), ("read", True, False), ("refresh", False, True), ("off", False, False)],
)
async def test_request_says_what_the_cache_may_do(mode: Any, uses: bool, remembers: bool) -> None:
    ingress = Ingress()
    await ingress.rank(_request(TEXTS[:10]))
    assert (await ingress.rank(_request(TEXTS[:10], cache=mode))).pairs == (0 if uses else 10)
    await ingress.rank(_request(TEXTS[10:20], cache=mode))
    assert (await ingress.rank(_request(TEXTS[10:20]))).pairs == (0 if remembers else 10)
    ingress.require_idle()


async def test_refreshed_score_replaces_the_remembered_one() -> None:
    ingress = Ingress()
    await ingress.rank(_request())
    ingress.fleet.act = _constantly(3)
    assert len({one.log_odds for one in (await ingress.rank(_request())).results}) > 1
    await ingress.rank(_request(cache="refresh"))
    assert {one.log_odds for one in (await ingress.rank(_request())).results} == {3}


def _constantly(logit: float) -> Callable[[Call], Awaitable[EngineScores]]:
    async def act(call: Call) -> EngineScores:
        return scores(*[logit] * len(call.shard))

    return act


async def test_callers_find_only_their_own_where_the_configuration_says_so() -> None:
    apart = Ingress(config=CONFIG.model_copy(update={"cache": CacheConfig(namespace="api_key")}))
    together = Ingress()
    for ingress, pairs in ((apart, 20), (together, 0)):
        await ingress.rank(_request(), "one")
        assert (await ingress.rank(_request(), "two")).pairs == pairs
        assert (await ingress.rank(_request(), "one")).pairs == 0


async def test_every_pair_is_scored_once_when_64_clients_ask_for_the_same_new_list() -> None:
    gate = Gate()
    ingress = Ingress(gate)
    clients = [asyncio.create_task(ingress.rank(_request(TEXTS))) for _ in range(64)]
    await _until(lambda: ingress.fleet.calls)
    await asyncio.sleep(0)
    gate.open()
    rankings = await asyncio.gather(*clients)
    assert ingress.pairs == len(TEXTS)
    assert len({ranking.results for ranking in rankings}) == 1
    assert sorted(ranking.pairs for ranking in rankings) == [0] * 63 + [200]
    assert sum(ranking.coalesced_documents for ranking in rankings) == 63 * 200
    ingress.require_idle()


async def test_lists_that_overlap_score_what_they_share_once() -> None:
    gate = Gate()
    ingress = Ingress(gate)
    lists = [TEXTS[start : start + 60] for start in (0, 30, 60, 90)]
    clients = [asyncio.create_task(ingress.rank(_request(one))) for one in lists]
    await _until(lambda: len(ingress.fleet.calls) >= 4)
    gate.open()
    for ranking, texts in zip(await asyncio.gather(*clients), lists, strict=True):
        assert ranking.results == (await Ingress().rank(_request(texts))).results
    assert ingress.pairs == 150
    ingress.require_idle()


async def test_follower_takes_over_when_the_leader_hangs_up() -> None:
    """And only one of them does."""
    gate = Gate()
    ingress = Ingress(never)
    leader = asyncio.create_task(ingress.rank(_request()))
    await _until(lambda: ingress.fleet.calls)
    followers = [asyncio.create_task(ingress.rank(_request())) for _ in range(8)]
    await asyncio.sleep(0)
    ingress.fleet.act = gate
    sent_by_leader = ingress.pairs
    leader.cancel()
    await _until(lambda: ingress.pairs > sent_by_leader)
    gate.open()
    rankings = await asyncio.gather(*followers)
    assert ingress.pairs == sent_by_leader + 20
    assert len({ranking.results for ranking in rankings}) == 1
    with pytest.raises(asyncio.CancelledError):
        await leader
    ingress.require_idle()


async def test_follower_takes_over_when_the_leader_fails() -> None:
    attempts = itertools.count()

    async def fail_first(call: Call) -> EngineScores:
        await asyncio.sleep(0.002)
        if next(attempts) == 0:
            raise ServiceError("a sentence")
        return await by_length(call)

    ingress = Ingress(fail_first)
    clients = [asyncio.create_task(ingress.rank(_request())) for _ in range(5)]
    leader, *followers = await asyncio.gather(*clients, return_exceptions=True)
    assert isinstance(leader, ServiceError)
    assert all(isinstance(ranking, Ranking) for ranking in followers)
    ingress.require_idle()


async def test_list_that_cannot_be_scored_fails_for_everybody_who_asks() -> None:
    async def not_a_number(call: Call) -> EngineScores:
        return scores(*[np.nan] * len(call.shard))

    ingress = Ingress(not_a_number)
    results = await asyncio.gather(*(ingress.rank(_request()) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, InvalidScoreError) for result in results)
    assert ingress.memory.use["entries"] == 0
    ingress.require_idle()


async def test_follower_with_less_time_than_the_leader_gives_up_in_time() -> None:
    forward = movable_clock()
    gate = Gate()
    ingress = Ingress(gate, CONFIG.model_copy(update={"limits": CONFIG.limits.model_copy(update={"timeout_s": 600})}))
    leader = asyncio.create_task(ingress.rank(_request()))
    await _until(lambda: ingress.fleet.calls)
    strict = asyncio.create_task(ingress.rank(_request(timeout_s=100)))
    partial = asyncio.create_task(ingress.rank(_request((*TEXTS[:20], TEXTS[20]), timeout_s=100, allow_partial=True)))
    await _until(lambda: len(ingress.fleet.calls) > 2 or ingress.pairs == 21)
    forward(150)
    for task in (strict, partial):  # the latter has no score of its own yet either
        with pytest.raises(DeadlineExceededError):
            await task
    gate.open()
    assert len((await leader).results) == 20
    ingress.require_idle()


async def test_partial_answer_has_what_others_have_had_scored_so_far() -> None:
    """The leader's first portion is there when its follower's time is up; the others never come."""
    forward = movable_clock()
    texts = [f"{'capital ' * (5 if number < 9 else 60)}{number:03d}".ljust(2_000) for number in range(60)]
    short_tokens = int(np.diff(RENDERER.render("q", texts[:9]).prompts.offsets).max())

    async def only_short_ones(call: Call) -> EngineScores:
        return await (by_length(call) if np.diff(call.shard.offsets).max() <= short_tokens else never(call))

    config = CONFIG.model_copy(update={"limits": CONFIG.limits.model_copy(update={"timeout_s": 600})})
    ingress = Ingress(only_short_ones, config)
    leader = asyncio.create_task(ingress.rank(_request(texts, timeout_s=300, allow_partial=True)))
    await _until(lambda: ingress.pairs == 60)
    follower = asyncio.create_task(ingress.rank(_request(texts, timeout_s=100, allow_partial=True)))
    await asyncio.sleep(0.01)
    for task, seconds in ((follower, 150), (leader, 300)):
        forward(seconds)
        ranking = await task
        assert sorted(one.index for one in ranking.results) == list(range(9))
        assert ranking.unscored == tuple(range(9, 60))
    ingress.require_idle()


async def test_somebody_who_waits_does_not_wait_for_a_job_that_may_take_its_time() -> None:
    gate = Gate()
    ingress = Ingress(gate)
    bulk = asyncio.create_task(ingress.rank(_request(priority="bulk")))
    await _until(lambda: ingress.pairs == 20)
    interactive = asyncio.create_task(ingress.rank(_request()))
    await _until(lambda: ingress.pairs == 40)
    gate.open()
    assert (await bulk).results == (await interactive).results
    ingress.require_idle()


async def test_short_list_does_not_wait_for_a_far_longer_one() -> None:
    """Its own turn comes sooner. What it has scored, the longer one's followers get as well."""
    gate = Gate()
    ingress = Ingress(gate)
    long = asyncio.create_task(ingress.rank(_request(TEXTS)))
    await _until(lambda: ingress.pairs == 200)
    short = asyncio.create_task(ingress.rank(_request(TEXTS[:10])))
    await _until(lambda: ingress.pairs == 210)
    half = asyncio.create_task(ingress.rank(_request(TEXTS[:100])))
    await asyncio.sleep(0.01)
    gate.open()
    await asyncio.gather(long, short, half)
    assert ingress.pairs == 210
    ingress.require_idle()


async def test_score_of_another_model_is_never_served() -> None:
    ingress = Ingress()
    await ingress.rank(_request())
    ingress.fleet.model = ingress.model = "another model"
    ranking = await ingress.rank(_request())
    assert (ranking.cached_documents, ranking.pairs) == (0, 20)


async def test_list_does_not_mix_the_scores_of_two_models() -> None:
    """The engines were replaced, and the ingress has not heard of it yet."""
    ingress = Ingress()
    await ingress.rank(_request(TEXTS[:10]))
    ingress.fleet.model = "another model"
    ingress.fleet.act = _constantly(3)
    ranking = await ingress.rank(_request(TEXTS[:20]))
    assert {one.log_odds for one in ranking.results} == {3}
    assert (ranking.pairs, ranking.cached_documents) == (20, 0)
    assert ingress.memory.use["entries"] == 10  # nothing was kept under the old model's keys
    ingress.require_idle()


async def test_nothing_is_looked_up_while_it_is_not_known_which_model_the_engines_hold() -> None:
    ingress = Ingress()
    await ingress.rank(_request())
    ingress.model = None
    assert (await ingress.rank(_request())).pairs == 20


async def test_known_list_is_let_in_however_long_the_queue_is() -> None:
    request, ingress = _request(), Ingress()
    await ingress.rank(request)
    async with look_up(request, ingress.cache, RENDERER, CONFIG, ingress.model) as lookup:
        assert share_to_score(request, lookup) == 0
    busy = ReplicaLoad(10**9, 1_000.0)
    with Admission(CONFIG.admission, CONFIG.priorities).permit(0, "interactive", 5, busy) as permit:
        assert permit.tokens == 0


async def test_long_list_is_hashed_off_the_event_loop() -> None:
    documents = [f"{number} " + "x" * 3_000 for number in range(100)]
    ingress = Ingress()
    await ingress.rank(_request(documents))
    assert (await ingress.rank(_request(documents))).pairs == 0
