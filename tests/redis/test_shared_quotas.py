"""With a Redis, the limits of a key hold over all ingress replicas; a Redis in trouble neither stalls nor refuses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.http import quotas as module
from deployments.http.quotas import Quotas
from reranker.config import RedisConfig
from reranker.errors import QuotaExceededError
from reranker.types import Caller
from tests.redis_server import RedisServer

TWO = Caller("two", max_in_flight=2)
METERED = Caller("metered", tokens_per_minute=6_000)
_WAIT_S = 20


@asynccontextmanager
async def replica(url: str, **settings: Any) -> AsyncIterator[Quotas]:
    """The quotas of one ingress replica, with connections of its own. A generous budget: the machine may be busy."""
    quotas = Quotas.of(RedisConfig(**({"url": url, "budget_s": 1} | settings)), {})
    try:
        yield quotas
    finally:
        await quotas.aclose()


async def _refusal(quotas: Quotas, caller: Caller) -> QuotaExceededError | None:
    try:
        async with quotas.request(caller):
            return None
    except QuotaExceededError as error:
        return error


async def _until(quotas: Quotas, caller: Caller, *, refused: bool) -> None:
    async with asyncio.timeout(_WAIT_S):
        while (await _refusal(quotas, caller) is not None) != refused:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.02)


async def test_requests_at_the_same_time_are_counted_over_all_replicas(redis_server: RedisServer) -> None:
    async with replica(redis_server.url) as one, replica(redis_server.url) as other:
        async with one.request(TWO), other.request(TWO):
            for quotas in (one, other):
                refused = await _refusal(quotas, TWO)
                assert refused is not None
                assert (str(refused), refused.retry_after_s) == (
                    str(QuotaExceededError("2 requests at the same time", 1)),
                    1,
                )
            assert await _refusal(other, Caller("another", max_in_flight=1)) is None
        assert await _refusal(one, TWO) is None


async def test_never_more_than_the_limit_and_never_less(redis_server: RedisServer) -> None:
    """Many at once, in two replicas: as many get in as may, whoever comes first."""
    caller = Caller("ten", max_in_flight=10)
    async with replica(redis_server.url) as one, replica(redis_server.url) as other, AsyncExitStack() as stack:
        entered = await asyncio.gather(
            *(stack.enter_async_context(quotas.request(caller)) for quotas in (one, other) for _ in range(10)),
            return_exceptions=True,
        )
        assert [type(error) for error in entered if error is not None] == [QuotaExceededError] * 10


async def test_client_that_waits_for_each_answer_is_never_refused(redis_server: RedisServer) -> None:
    """Its next request may reach another replica before the last one is counted out."""
    caller = Caller("sequential", max_in_flight=1)
    async with replica(redis_server.url) as one, replica(redis_server.url) as other:
        for _ in range(50):
            assert await _refusal(one, caller) is None
            assert await _refusal(other, caller) is None


async def test_tokens_are_counted_over_all_replicas_and_forgiven_with_time(redis_server: RedisServer) -> None:
    async with replica(redis_server.url) as one, replica(redis_server.url) as other:
        async with one.request(METERED):
            one.spend(METERED, 4_000)
        async with other.request(METERED):
            other.spend(METERED, 12_000)
        await _until(one, METERED, refused=True)
        refused = await _refusal(one, METERED)
        assert refused is not None
        assert "6000 tokens per minute" in str(refused)
        assert 95 <= (refused.retry_after_s or 0) <= 100  # 16,000 tokens take 160 s; a minute of that may be owed
        client = redis_server.client()
        client.pexpire("reranker:quota:{metered}:debt", 60_100)  # as if that time had passed
        client.close()
        await _until(one, METERED, refused=False)


async def test_replicas_that_forgot_their_own_part_still_see_the_whole(redis_server: RedisServer) -> None:
    """A new ingress replica, after a restart, say."""
    async with replica(redis_server.url) as one, one.request(METERED):
        one.spend(METERED, 50_000)
    async with replica(redis_server.url) as other:
        assert await _refusal(other, METERED) is not None


async def test_clearing_the_cache_forgives_nothing(redis_server: RedisServer) -> None:
    client = redis_server.client()
    async with replica(redis_server.url) as one, one.request(METERED):
        one.spend(METERED, 50_000)
    names = client.keys()
    client.close()
    assert b"reranker:quota:{metered}:debt" in names
    assert not [name for name in names if name.startswith(b"reranker:{")]  # what RedisStore.clear() looks for


async def test_without_redis_each_replica_counts_for_itself() -> None:
    one, other = Quotas.of(RedisConfig(), {}), Quotas.of(RedisConfig(), {})
    async with one.request(Caller("a", max_in_flight=1)):
        assert await _refusal(one, Caller("a", max_in_flight=1)) is not None
        assert await _refusal(other, Caller("a", max_in_flight=1)) is None


async def test_redis_that_is_killed_leaves_each_replica_its_own_count_and_is_used_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    one_request = Caller("one", max_in_flight=1)
    async with replica(redis_server.url) as one, replica(redis_server.url) as other:
        async with one.request(one_request):
            assert await _refusal(other, one_request) is not None
            redis_server.kill()
            await _until_left_alone(other, one_request)
            assert await _refusal(other, one_request) is None
            assert await _refusal(one, one_request) is not None  # its own count
            one.spend(Caller("metered", tokens_per_minute=10), 1_000)
            assert await _refusal(one, Caller("metered", tokens_per_minute=10)) is not None
            redis_server.start()
        async with asyncio.timeout(_WAIT_S):
            refused = None
            while refused is None:
                async with one.request(one_request):
                    refused = await _refusal(other, one_request)
    assert "limits of API keys: Redis does not answer" in caplog.text


async def test_paused_redis_stalls_nobody_and_refuses_nobody(redis_server: RedisServer) -> None:
    caller = Caller("many", max_in_flight=1_000, tokens_per_minute=10**9)
    async with replica(redis_server.url, budget_s=0.2) as quotas:
        assert await _refusal(quotas, caller) is None
        redis_server.pause()
        try:
            started_s = time.monotonic()
            assert await asyncio.gather(*(_refusal(quotas, caller) for _ in range(64))) == [None] * 64
            assert time.monotonic() - started_s < 2  # a budget, on a busy machine; unbounded it would be for ever
            await _until_left_alone(quotas, caller)
            started_s = time.monotonic()
            for _ in range(20):
                assert await _refusal(quotas, caller) is None
            assert time.monotonic() - started_s < 1  # not a budget each: that would be four seconds
        finally:
            redis_server.resume()


async def _until_left_alone(quotas: Quotas, caller: Caller) -> None:
    assert quotas._link is not None
    async with asyncio.timeout(_WAIT_S):
        while quotas._link.reachable:
            await _refusal(quotas, caller)


_HOLDER = """
import asyncio, sys
from deployments.http import quotas as module
from reranker.types import Caller
from deployments.http.quotas import Quotas
from reranker.config import RedisConfig

module._LEASE_S, module._RENEW_S = 2, 0.5

async def hold():
    quotas = Quotas.of(RedisConfig(url=sys.argv[1], budget_s=5), {})
    async with quotas.request(Caller("one", max_in_flight=1)):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""


async def test_requests_of_another_process_count_until_it_ends_however_it_ends(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_S", 2)
    one_request = Caller("one", max_in_flight=1)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, redis_server.url, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        async with replica(redis_server.url) as quotas:
            assert await _refusal(quotas, one_request) is not None
            await asyncio.sleep(module._LEASE_S + 2)  # longer than a lease: it was renewed
            assert await _refusal(quotas, one_request) is not None
            holder.kill()
            started_s = time.monotonic()
            await _until(quotas, one_request, refused=False)
            assert time.monotonic() - started_s < module._LEASE_S + 5
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()
