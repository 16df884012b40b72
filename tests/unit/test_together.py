"""Several lists of one request: one permit, one deadline, all or none."""

from __future__ import annotations

import asyncio

import pytest

from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import DeadlineExceededError, RequestTooLargeError, ScoringError
from reranker.ranking.admission import Admission, Permit, PermitPart
from reranker.ranking.together import rank_all
from reranker.types import Ranking, RankRequest, ReplicaLoad

EMPTY = Ranking((), (), 0, 0, 0, 0, 0, 0)


def _lists(count: int) -> list[RankRequest]:
    return [RankRequest(f"query {number}", ("a",)) for number in range(count)]


async def test_one_list_gets_the_permit_itself() -> None:
    admission = Admission(AdmissionConfig(), PrioritiesConfig())
    seen: list[object] = []

    async def rank(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
        seen.append(permit)
        return EMPTY

    with admission.permit(100, "interactive", 60, ReplicaLoad()) as permit:
        assert await rank_all(_lists(1), permit, 60, rank) == [EMPTY]
        assert seen == [permit]


async def test_rankings_come_in_the_order_of_the_lists_and_the_permit_has_all_their_tokens() -> None:
    admission = Admission(AdmissionConfig(), PrioritiesConfig())

    async def rank(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
        permit.grow(400)
        await asyncio.sleep(0)
        permit.resize(1_000)
        assert request.timeout_s is not None
        assert 0 < request.timeout_s <= 60
        return Ranking((), (), int(request.query.removeprefix("query ")), 0, 0, 0, 0, 0)

    with admission.permit(100, "interactive", 60, ReplicaLoad()) as permit:
        rankings = await rank_all(_lists(40), permit, 60, rank)
        assert [ranking.prompt_tokens for ranking in rankings] == list(range(40))
        assert admission.tokens_in_flight == 40_000
    admission.check_integrity()


async def test_lists_that_are_too_much_together_are_refused() -> None:
    admission = Admission(AdmissionConfig(max_tokens_in_flight=2_500), PrioritiesConfig())

    async def rank(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
        permit.grow(1_000)
        return EMPTY

    with (
        admission.permit(100, "interactive", 60, ReplicaLoad()) as permit,
        pytest.raises(RequestTooLargeError, match="3000 tokens"),
    ):
        await rank_all(_lists(3), permit, 60, rank)


async def test_first_failure_cancels_the_others() -> None:
    admission = Admission(AdmissionConfig(), PrioritiesConfig())
    cancelled: list[str] = []

    async def rank(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
        if request.query == "query 3":
            raise ScoringError
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.query)
            raise
        raise AssertionError("unreachable")

    with admission.permit(100, "interactive", 60, ReplicaLoad()) as permit, pytest.raises(ScoringError):
        await rank_all(_lists(6), permit, 60, rank)
    assert len(cancelled) >= 3


async def test_list_whose_turn_does_not_come_in_time_fails_the_request() -> None:
    admission = Admission(AdmissionConfig(), PrioritiesConfig())

    async def rank(request: RankRequest, permit: Permit | PermitPart) -> Ranking:
        await asyncio.sleep(0.02)
        return EMPTY

    with admission.permit(100, "interactive", 60, ReplicaLoad()) as permit, pytest.raises(DeadlineExceededError):
        await rank_all(_lists(100), permit, 0.01, rank)
