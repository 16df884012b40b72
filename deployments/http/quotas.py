"""What each API key uses, against its own limits: in one ingress replica, and with a Redis in all of them together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import uuid4

from reranker.cache.redis import RedisLink
from reranker.config import RedisConfig
from reranker.errors import QuotaExceededError
from reranker.types import Caller

_MINUTE_S = 60.0
_LEASE_S, _RENEW_S = 10.0, 3.0
_PAUSES_S = (0.005, 0.02, 0.1, 0.0)
"""Between the tries of a request too many: another replica may not have told Redis yet what it has just answered."""
_NO_LIMIT = 2**31
_TAKE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local in_flight = redis.call('ZCARD', KEYS[1])
if in_flight < tonumber(ARGV[3]) then
    redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
    redis.call('EXPIRE', KEYS[1], 3600)
end
return {in_flight, redis.call('PTTL', KEYS[2])}
"""
_CHARGE = "return redis.call('SET', KEYS[1], '', 'PX', math.max(redis.call('PTTL', KEYS[1]), 0) + ARGV[1])"


class Quotas:
    """What each caller uses, against its own limits. To be used from one event loop.

    With a Redis, all ingress replicas count together. Without one, or while it does not answer, each counts for itself:
    a Redis in trouble refuses nobody. A request in flight is a lease, which its replica renews in Redis: those of a
    killed replica end by themselves. Tokens are known only once a list is scored, so they make a debt, which time pays
    off at the rate of the limit. It is kept as the seconds that takes, in Redis as a key's time to live. Who owes a
    minute or more has to wait.
    """

    def __init__(
        self, link: RedisLink | None = None, prefix: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`link` is to the Redis of all ingress replicas; the names of its keys begin with `prefix`."""
        self._link, self._prefix, self._clock = link, prefix, clock
        self._leases: defaultdict[str, set[str]] = defaultdict(set)
        """By caller, those of its requests that are here."""
        self._debt_free_s: defaultdict[str, float] = defaultdict(float)
        """When a caller's debt for the lists of this process is paid off."""
        self._renewal: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    @classmethod
    def of(cls, config: RedisConfig, environment: Mapping[str, str]) -> Self:
        return cls(RedisLink.of(config, environment, "limits of API keys"), config.prefix)

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[None]:
        """Let a request in, for as long as the block lasts; raises QuotaExceededError."""
        leases, lease = self._leases[caller.name], uuid4().hex
        _require_share(caller, len(leases), self._debt_free_s[caller.name] - self._clock())
        leases.add(lease)
        limited = caller.max_in_flight is not None or caller.tokens_per_minute is not None
        shared = False
        try:
            shared = limited and self._link is not None and await self._link.usable()
            if shared:
                await self._lease(caller, lease)
            yield
        finally:
            leases.discard(lease)
            if shared:  # even if Redis seems not to have given it: it may do so late
                self._start(self._release(caller.name, lease))

    def spend(self, caller: Caller, tokens: int) -> None:
        if caller.tokens_per_minute is None or not tokens:
            return
        cost_s = tokens * _MINUTE_S / caller.tokens_per_minute
        self._debt_free_s[caller.name] = max(self._debt_free_s[caller.name], self._clock()) + cost_s
        if self._link is not None:
            self._start(self._ask("eval", _CHARGE, 1, self._key(caller.name, "debt"), math.ceil(cost_s * 1e3)))

    async def aclose(self) -> None:
        """Tell the other replicas what is to be told, and disconnect."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_RENEW_S)
        if self._link is not None:
            await self._link.aclose()

    async def _lease(self, caller: Caller, lease: str) -> None:
        """Take a lease, if Redis answers; raises QuotaExceededError."""
        most = _NO_LIMIT if caller.max_in_flight is None else caller.max_in_flight
        keys = [self._key(caller.name, "requests"), self._key(caller.name, "debt")]
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
        for pause_s in _PAUSES_S:
            now_s = time.time()
            used = await self._ask("eval", _TAKE, 2, *keys, now_s, now_s + _LEASE_S, most, lease)
            if used is None:
                return
            in_flight, debt_ms = used
            if in_flight < most:
                break
            await asyncio.sleep(pause_s)
        _require_share(caller, in_flight, debt_ms / 1e3)

    async def _release(self, name: str, lease: str) -> None:
        """Give a lease back. What Redis does not hear is told again, until the lease has expired."""
        expires_s = time.time() + _LEASE_S
        while await self._ask("zrem", self._key(name, "requests"), lease) is None:
            await asyncio.sleep(_RENEW_S)
            if time.time() > expires_s:
                return

    async def _renew(self) -> None:
        while any(self._leases.values()):
            await asyncio.sleep(_RENEW_S)
            for name, leases in list(self._leases.items()):
                if leases:  # xx: a request that has ended meanwhile must not come back
                    expiries = dict.fromkeys(leases, time.time() + _LEASE_S)
                    await self._ask("zadd", self._key(name, "requests"), expiries, xx=True)

    async def _ask(self, method: str, *arguments: Any, **options: bool) -> Any:  # Any: redis-py's
        """Call a method of redis-py's client. None: Redis did not answer."""
        link = self._link
        if link is None or not await link.usable():
            return None
        return await link.ask(lambda: getattr(link.client, method)(*arguments, **options))

    def _key(self, name: str, what: str) -> str:
        # In braces: in a cluster, all keys of a caller are on one node.
        return f"{self._prefix}:quota:{{{name}}}:{what}"

    def _start(self, call: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _require_share(caller: Caller, in_flight: int, debt_s: float) -> None:
    if caller.max_in_flight is not None and in_flight >= caller.max_in_flight:
        raise QuotaExceededError(f"{caller.max_in_flight} requests at the same time", 1)
    if caller.tokens_per_minute is not None and debt_s >= _MINUTE_S:  # what a list will have is not known yet
        wait_s = max(1, math.ceil(debt_s - _MINUTE_S))
        raise QuotaExceededError(f"{caller.tokens_per_minute} tokens per minute", wait_s)
