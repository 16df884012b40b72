"""What a key may use: in one ingress replica, without Redis. With one: tests/redis/test_shared_quotas.py."""

from __future__ import annotations

import pytest

from deployments.http.quotas import Quotas
from reranker.errors import QuotaExceededError
from reranker.types import Caller


class Clock:
    """A clock that tests move."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_requests_at_the_same_time_are_limited_by_key() -> None:
    quotas, caller = Quotas(clock=Clock()), Caller("a", max_in_flight=2)
    async with quotas.request(caller), quotas.request(caller), quotas.request(Caller("b", max_in_flight=1)):
        more = quotas.request(caller)
        with pytest.raises(QuotaExceededError, match="2 requests at the same time"):
            await more.__aenter__()
    async with quotas.request(caller):
        pass


async def test_tokens_per_minute_are_limited_by_key_and_forgiven_with_time() -> None:
    clock = Clock()
    quotas, caller = Quotas(clock=clock), Caller("a", tokens_per_minute=6_000)
    async with quotas.request(caller):
        quotas.spend(caller, 7_000)  # what a list has is known only once it is scored
    with pytest.raises(QuotaExceededError, match="6000 tokens per minute") as caught:
        await quotas.request(caller).__aenter__()
    assert caught.value.retry_after_s == 10
    clock.now_s += 10.1
    async with quotas.request(caller):
        quotas.spend(caller, 100)
    clock.now_s += 3_600
    async with quotas.request(caller):
        quotas.spend(caller, 5_000)  # an idle hour gives no more than a minute's worth
    async with quotas.request(caller):
        pass


async def test_caller_without_limits_has_none() -> None:
    quotas, caller = Quotas(), Caller("a")
    async with quotas.request(caller):
        quotas.spend(caller, 10**9)
    async with quotas.request(caller):
        pass
