"""The whole flow of a request without Ray or vLLM: the fleet is a double at the ranker's own seam."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from reranker.config import AdmissionConfig, LimitsConfig, RulesConfig
from reranker.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    InvalidScoreError,
    NotReadyError,
    QueryTooLongError,
    RequestTooLargeError,
    ServiceError,
    UnknownInstructionError,
)
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, Caller, EngineScores, RankRequest
from tests.unit.fleets import Call, FakeFleet, by_length, never, scores
from tests.unit.rankers import CONFIG, RENDERER, rank, rank_once, require_idle, until


def _request(documents: int, top_n: int | None = None) -> RankRequest:
    """Documents of 2 to 8 tokens, no two alike."""
    texts = tuple("capital " * (i % 7 + 1) + f"{i:02d}" for i in range(documents))
    return RankRequest("which is longest", texts, top_n=top_n)


async def test_list_over_several_replicas_equals_the_list_in_one_piece() -> None:
    whole = await rank_once(_request(60), FakeFleet(1))
    split = await rank_once(_request(60), FakeFleet(4))
    assert whole.results == split.results
    assert (whole.shards, whole.replicas) == (1, 1)
    assert (split.shards, split.replicas) == (4, 4)


async def test_documents_come_best_first_ties_by_index() -> None:
    ranking = await rank_once(_request(14, top_n=5), FakeFleet(2))
    assert [document.index for document in ranking.results] == [6, 13, 5, 12, 4]


async def test_usage_counts_every_prompt_token() -> None:
    ranking = await rank_once(_request(3, top_n=1), FakeFleet(1))
    assert ranking.prompt_tokens == RENDERER.render(_request(3).query, _request(3).documents).prompts.prompt_tokens


async def test_failed_shard_fails_the_list_and_cancels_the_others() -> None:
    async def fail_the_second(call: Call) -> EngineScores:
        if call.number == 1:
            raise ServiceError("a sentence")
        return await never(call)

    fleet = FakeFleet(2, fail_the_second)
    with pytest.raises(ServiceError, match="a sentence"):
        await rank_once(_request(60), fleet)
    assert fleet.calls[0].cancelled


async def test_list_that_takes_too_long_is_given_up() -> None:
    fleet = FakeFleet(1, never)
    hurried = CONFIG.model_copy(update={"limits": LimitsConfig(timeout_s=0.05)})
    with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
        await rank_once(_request(3), fleet, hurried)
    assert fleet.calls[0].cancelled


async def test_request_may_ask_for_less_time_but_not_for_more() -> None:
    with pytest.raises(DeadlineExceededError, match=r"0\.04 s"):
        await rank_once(replace(_request(3), timeout_s=0.04), FakeFleet(1, never))
    hurried = CONFIG.model_copy(update={"limits": LimitsConfig(timeout_s=0.05)})
    with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
        await rank_once(replace(_request(3), timeout_s=60), FakeFleet(1, never), hurried)


async def test_score_that_is_not_a_number_fails_the_list() -> None:
    async def not_a_number(call: Call) -> EngineScores:
        return scores(*[np.nan] * len(call.shard))

    with pytest.raises(InvalidScoreError):
        await rank_once(_request(3), FakeFleet(1, not_a_number))


async def test_list_without_a_replica_is_not_started() -> None:
    fleet = FakeFleet(0)
    with pytest.raises(NotReadyError):
        await rank_once(_request(3), fleet)
    assert not fleet.calls


async def test_list_waits_for_a_replica_in_place_of_the_last_that_was_lost() -> None:
    """Up to its deadline; then nobody can answer, which is a 503."""
    fleet = FakeFleet(1)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    fleet.live()
    waiting = asyncio.create_task(rank(ranker, _request(3)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    with pytest.raises(NotReadyError):
        await rank(ranker, replace(_request(3), timeout_s=0.01))
    fleet.live(*fleet.names)
    assert len((await waiting).results) == 3
    fleet.require_idle()


async def test_query_that_cannot_fit_costs_nothing() -> None:
    """It is refused by its length, before anything is hashed or tokenized."""
    fleet = FakeFleet(1)
    with pytest.raises(QueryTooLongError, match="or more"):
        await rank_once(RankRequest("q" * 50_000_000, ("document",)), fleet)
    assert not fleet.calls


async def test_lists_of_one_request_share_its_callers_turns() -> None:
    """However many requests a key sends, so many of their lists are looked at together."""
    fleet = FakeFleet(1, never)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    lists = [RankRequest(f"query {number}", ("document",)) for number in range(40)]
    tasks = [asyncio.create_task(ranker.rank(lists, ANONYMOUS, RequestRecord(f"id-{n}"))) for n in range(3)]
    await until(lambda: len(fleet.calls) >= 16)
    await asyncio.sleep(0.05)
    assert len(fleet.calls) == 16
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fleet.require_idle()


async def test_list_with_more_tokens_than_are_ever_let_in_is_refused_before_it_is_sent() -> None:
    fleet = FakeFleet(1)
    small = CONFIG.model_copy(update={"admission": AdmissionConfig(max_tokens_in_flight=100)})
    with pytest.raises(RequestTooLargeError, match="the limit is 100"):
        await rank_once(_request(60), fleet, small)
    assert not fleet.calls


async def test_permit_is_as_large_as_the_work_and_the_class_has_its_weight() -> None:
    in_flight: list[int] = []

    async def look(call: Call) -> EngineScores:
        in_flight.append(ranker.admission.tokens_in_flight)
        return await by_length(call)

    fleet = FakeFleet(1, look)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    for priority in ("interactive", "bulk"):
        await rank(ranker, replace(_request(20), priority=priority))
    assert in_flight == [call.shard.work_tokens for call in fleet.calls]
    assert [call.weight for call in fleet.calls] == [8, 1]


async def test_caller_whose_requests_are_all_bulk_has_no_say() -> None:
    fleet = FakeFleet(1)
    ranked = await rank(Ranker(CONFIG, RENDERER, fleet), _request(3), Caller("batch", priority="bulk"))
    assert ranked.record.priority == "bulk"
    assert [call.weight for call in fleet.calls] == [1]


async def test_named_instruction_is_its_text() -> None:
    named = await rank_once(replace(_request(3), instruction="@medical"), FakeFleet(1))
    text = CONFIG.model.instructions["medical"]
    written = await rank_once(replace(_request(3), instruction=text), FakeFleet(1))
    assert named.prompt_tokens == written.prompt_tokens


async def test_unknown_instruction_names_the_known_ones() -> None:
    with pytest.raises(UnknownInstructionError, match="@medical"):
        await rank_once(replace(_request(3), instruction="@medicine"), FakeFleet(1))


async def test_instruction_for_a_model_that_takes_none_is_refused() -> None:
    """It would be dropped, and the client would think it had been followed."""

    class TakesNone(PromptRenderer):
        takes_instruction = False

    renderer = TakesNone(DEMO_MODEL, 256, CONFIG.model.instruction)
    await rank_once(_request(3), FakeFleet(1), renderer=renderer)
    with pytest.raises(InvalidRequestError, match="takes none"):
        await rank_once(replace(_request(3), instruction="x"), FakeFleet(1), renderer=renderer)


async def test_top_n_counts_what_the_rules_leave() -> None:
    config = CONFIG.model_copy(update={"rules": RulesConfig(score_threshold=0.9999)})
    ranking = await rank_once(_request(14, top_n=3), FakeFleet(1), config)
    assert [document.index for document in ranking.results] == [6, 13, 5][: len(ranking.results)]
    assert all(document.relevance_score >= 0.9999 for document in ranking.results)
    assert {one.rule for one in ranking.excluded} == {"score_threshold"}


async def test_cancelled_request_leaves_nothing_behind() -> None:
    """A client that hung up: its shards are cancelled, its permit is back."""
    fleet = FakeFleet(2, never)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    task = asyncio.create_task(rank(ranker, _request(60)))
    await until(lambda: len(fleet.calls) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(call.cancelled for call in fleet.calls)
    require_idle(ranker, fleet)


async def test_time_that_was_spent_before_the_list_was_read_counts() -> None:
    """The deadline is the request's: a body that came slowly leaves less time for its list."""
    fleet, record = FakeFleet(1), RequestRecord()
    record.began_s -= 3
    await Ranker(CONFIG, RENDERER, fleet).rank([_request(3)], ANONYMOUS, record)
    assert 1 < fleet.calls[0].timeout_s <= 2
    record.began_s -= 3
    with pytest.raises(DeadlineExceededError, match="5 s"):
        await Ranker(CONFIG, RENDERER, FakeFleet(1)).rank([_request(3)], ANONYMOUS, record)
