"""A pair that one list is having scored is awaited by the others, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from reranker.errors import DeadlineExceededError, InvalidScoreError, ServiceError
from reranker.types import EngineScores
from tests.unit.fleets import Call, by_length, movable_clock, never, scores
from tests.unit.rankers import CONFIG, RENDERER, TEXTS, Gate, Ingress, Ranked, request_for, until


async def test_every_pair_is_scored_once_when_64_clients_ask_for_the_same_new_list() -> None:
    gate = Gate()
    ingress = Ingress(gate)
    clients = [asyncio.create_task(ingress.rank(request_for(TEXTS))) for _ in range(64)]
    await until(lambda: ingress.fleet.calls)
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
    clients = [asyncio.create_task(ingress.rank(request_for(one))) for one in lists]
    await until(lambda: len(ingress.fleet.calls) >= 4)
    gate.open()
    for ranking, texts in zip(await asyncio.gather(*clients), lists, strict=True):
        assert ranking.results == (await Ingress().rank(request_for(texts))).results
    assert ingress.pairs == 150
    ingress.require_idle()


async def test_follower_takes_over_when_the_leader_hangs_up() -> None:
    """And only one of them does."""
    gate = Gate()
    ingress = Ingress(never)
    leader = asyncio.create_task(ingress.rank(request_for()))
    await until(lambda: ingress.fleet.calls)
    followers = [asyncio.create_task(ingress.rank(request_for())) for _ in range(8)]
    await asyncio.sleep(0)
    ingress.fleet.act = gate
    sent_by_leader = ingress.pairs
    leader.cancel()
    await until(lambda: ingress.pairs > sent_by_leader)
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
    clients = [asyncio.create_task(ingress.rank(request_for())) for _ in range(5)]
    leader, *followers = await asyncio.gather(*clients, return_exceptions=True)
    assert isinstance(leader, ServiceError)
    assert all(isinstance(ranking, Ranked) for ranking in followers)
    ingress.require_idle()


async def test_list_that_cannot_be_scored_fails_for_everybody_who_asks() -> None:
    async def not_a_number(call: Call) -> EngineScores:
        return scores(*[np.nan] * len(call.shard))

    ingress = Ingress(not_a_number)
    results = await asyncio.gather(*(ingress.rank(request_for()) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, InvalidScoreError) for result in results)
    assert ingress.memory.statistics["entries"] == 0
    ingress.require_idle()


async def test_follower_with_less_time_than_the_leader_gives_up_in_time() -> None:
    forward = movable_clock()
    gate = Gate()
    ingress = Ingress(gate, CONFIG.model_copy(update={"limits": CONFIG.limits.model_copy(update={"timeout_s": 600})}))
    leader = asyncio.create_task(ingress.rank(request_for()))
    await until(lambda: ingress.fleet.calls)
    strict = asyncio.create_task(ingress.rank(request_for(timeout_s=100)))
    partial = asyncio.create_task(
        ingress.rank(request_for((*TEXTS[:20], TEXTS[20]), timeout_s=100, allow_partial=True))
    )
    await until(lambda: len(ingress.fleet.calls) > 2 or ingress.pairs == 21)
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
    leader = asyncio.create_task(ingress.rank(request_for(texts, timeout_s=300, allow_partial=True)))
    await until(lambda: ingress.pairs == 60)
    follower = asyncio.create_task(ingress.rank(request_for(texts, timeout_s=100, allow_partial=True)))
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
    bulk = asyncio.create_task(ingress.rank(request_for(priority="bulk")))
    await until(lambda: ingress.pairs == 20)
    interactive = asyncio.create_task(ingress.rank(request_for()))
    await until(lambda: ingress.pairs == 40)
    gate.open()
    assert (await bulk).results == (await interactive).results
    ingress.require_idle()


async def test_short_list_does_not_wait_for_a_far_longer_one() -> None:
    """Its own turn comes sooner. What it has scored, the longer one's followers get as well."""
    gate = Gate()
    ingress = Ingress(gate)
    long = asyncio.create_task(ingress.rank(request_for(TEXTS)))
    await until(lambda: ingress.pairs == 200)
    short = asyncio.create_task(ingress.rank(request_for(TEXTS[:10])))
    await until(lambda: ingress.pairs == 210)
    half = asyncio.create_task(ingress.rank(request_for(TEXTS[:100])))
    await asyncio.sleep(0.01)
    gate.open()
    await asyncio.gather(long, short, half)
    assert ingress.pairs == 210
    ingress.require_idle()
