"""What each API key uses, against its own limits: in one ingress replica, and with a Redis in all of them together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Self
from uuid import uuid4

from reranker.cache.redis import RedisLink
from reranker.config import RedisConfig
from reranker.errors import QuotaExceededError
from reranker.types import Caller

_MINUTE_S = 60.0
_LEASE_S, _RENEW_S = 10.0, 3.0
_PAUSES_S = (0.005, 0.02, 0.1, 0.0)
"""Before a request too many is refused: another replica may not have counted out yet what it has just answered."""
_ANY = 2**31
_TAKE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local in_flight = redis.call('ZCARD', KEYS[1])
if in_flight < tonumber(ARGV[3]) then
    redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
    redis.call('EXPIRE', KEYS[1], 3600)
end
return {in_flight, redis.call('PTTL', KEYS[2])}
"""
_RENEW = "for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[i]) end return 1"
"""XX: a request that has ended meanwhile must not come back."""
_END = "for i = 1, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end return 1"
_CHARGE = "return redis.call('SET', KEYS[1], '', 'PX', math.max(redis.call('PTTL', KEYS[1]), 0) + ARGV[1])"


class Quotas:
    """What each caller uses, against its own limits. To be used from one event loop.

    With a Redis, all ingress replicas count together. Without one, or while it does not answer, each counts for itself.
    Tokens are known only once a list is scored, so they make a debt, which time pays off at the rate of the limit. It
    is kept as the seconds that takes. Who owes a minute or more has to wait.
    """

    def __init__(self, shared: SharedQuotas | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing used.

        Args:
            shared: What all ingress replicas count together.
            clock: Seconds; for tests.
        """
        self._shared, self._clock = shared, clock
        self._in_flight: Counter[str] = Counter()
        self._debt_free_s: defaultdict[str, float] = defaultdict(float)
        """When a caller's debt for the lists of this process is paid off."""

    @classmethod
    def of(cls, config: RedisConfig, environment: Mapping[str, str]) -> Self:
        """Make the quotas of an ingress replica.

        Raises:
            ConfigurationError: The file with Redis' password cannot be read.
        """
        link = RedisLink.of(config, environment, "limits of API keys")
        return cls(SharedQuotas(link, config.prefix) if link else None)

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[None]:
        """Let a request in, for as long as the block lasts.

        Raises:
            QuotaExceededError: The caller has too many here already, or has used its tokens of this minute.
        """
        name = caller.name
        _require_share(caller, self._in_flight[name], self._debt_free_s[name] - self._clock())
        self._in_flight[name] += 1
        try:
            limited = caller.max_in_flight is not None or caller.tokens_per_minute is not None
            async with self._shared.request(caller) if self._shared and limited else nullcontext():
                yield
        finally:
            self._in_flight[name] -= 1

    def spend(self, caller: Caller, tokens: int) -> None:
        """Note what an answer took."""
        if caller.tokens_per_minute is not None and tokens:
            cost_s = tokens * _MINUTE_S / caller.tokens_per_minute
            self._debt_free_s[caller.name] = max(self._debt_free_s[caller.name], self._clock()) + cost_s
            if self._shared:
                self._shared.spend(caller, cost_s)

    async def aclose(self) -> None:
        """Tell the other replicas what is to be told, and disconnect."""
        if self._shared:
            await self._shared.aclose()


class SharedQuotas:
    """What each caller uses in all ingress replicas together, in Redis. A Redis in trouble refuses nobody.

    A debt is a key whose time to live is the time that pays it off. A request in flight is a lease that its replica
    renews, so those of a killed replica end by themselves.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        """Ask nothing yet.

        Args:
            link: To Redis; closed with this object.
            prefix: What the names of its keys begin with.
        """
        self._link, self._prefix = link, prefix
        self._leases: defaultdict[str, set[str]] = defaultdict(set)
        """By caller, those of its requests that are here."""
        self._ended: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """By caller, those that Redis may still have, and when they expire there."""
        self._renewal: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[None]:
        """Let a request in, for as long as the block lasts.

        Raises:
            QuotaExceededError: See `Quotas.request`.
        """
        name, lease = caller.name, uuid4().hex
        try:
            await self._require_share(caller, lease)
            yield
        finally:
            if lease in self._leases[name]:
                self._leases[name].discard(lease)
                self._ended[name][lease] = time.time() + _LEASE_S
                self._start(self._end(name))

    def spend(self, caller: Caller, cost_s: float) -> None:
        """Add to a debt, in the background."""
        self._start(self._ask(_CHARGE, [self._key(caller.name, "debt")], [math.ceil(cost_s * 1e3)]))

    async def aclose(self) -> None:
        """Finish what is under way, and disconnect."""
        if self._renewal is not None:
            self._renewal.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.aclose()

    async def _require_share(self, caller: Caller, lease: str) -> None:
        name, most = caller.name, _ANY if caller.max_in_flight is None else caller.max_in_flight
        keys = [self._key(name, "requests"), self._key(name, "debt")]
        for pause_s in _PAUSES_S:
            if not await self._link.usable():
                return
            self._leases[name].add(lease)  # before it is asked for: Redis may give it after we have stopped waiting
            now_s = time.time()
            used = await self._ask(_TAKE, keys, [now_s, now_s + _LEASE_S, most, lease])
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew())
            if used is None:
                return
            in_flight, debt_ms = used
            if in_flight < most:
                break
            self._leases[name].discard(lease)
            await asyncio.sleep(pause_s)
        _require_share(caller, in_flight, debt_ms / 1e3)

    async def _renew(self) -> None:
        while any(self._leases.values()) or any(self._ended.values()):
            await asyncio.sleep(_RENEW_S)
            for name in list(self._leases):
                if leases := list(self._leases[name]):
                    await self._ask(_RENEW, [self._key(name, "requests")], [time.time() + _LEASE_S, *leases])
                await self._end(name)

    async def _end(self, name: str) -> None:
        """Give leases back. What Redis does not hear is told again with the next renewal, until it has expired."""
        now_s = time.time()
        ended = {lease for lease, expires_s in self._ended[name].items() if expires_s > now_s}
        if ended and await self._ask(_END, [self._key(name, "requests")], [*ended]) is None:
            return
        self._ended[name] = {
            lease: at_s for lease, at_s in self._ended[name].items() if at_s > now_s and lease not in ended
        }

    async def _ask(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
        """Run a script. None: Redis did not answer."""
        if not await self._link.usable():
            return None
        return await self._link.ask(lambda: self._link.client.eval(script, len(keys), *keys, *arguments))

    def _key(self, name: str, what: str) -> str:
        return (
            f"{self._prefix}:quota:{{{name}}}:{what}"  # in braces: in a cluster, the keys of a caller are on one node
        )

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
