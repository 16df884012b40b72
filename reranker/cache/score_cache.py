"""The score cache of one ingress replica, and the statistics of those of all replicas."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Self

from reranker.cache import Statistics
from reranker.cache.keys import MAX_SECRET_BYTES, ListTerms, document_keys
from reranker.cache.lookup import Flights, Lookup, Store
from reranker.cache.memory import MemoryStore
from reranker.cache.redis import RedisLink, RedisStore, read_secret
from reranker.config import RerankerConfig
from reranker.errors import ConfigurationError
from reranker.types import CacheMode

SECRET_VARIABLE = "RERANKER_CACHE_SECRET"  # noqa: S105 - a name

_LONG_CHARACTERS = 200_000  # a list below that is hashed in a millisecond: not worth a thread


class ScoreCache:
    """Scores in this ingress replica's memory, and those it shares with others. To be used from one event loop."""

    def __init__(
        self, memory: MemoryStore | None = None, shared: RedisStore | None = None, secret: bytes = b""
    ) -> None:
        self._memory, self._shared = memory, shared
        self._stores: list[Store] = [store for store in (memory, shared) if store is not None]
        self._counts = Counter(hits=0, misses=0, coalesced=0)
        self._secret = secret
        self._flights: Flights = {}
        self._open = 0

    @classmethod
    def of(cls, config: RerankerConfig, environment: Mapping[str, str]) -> Self | None:
        """Make the configured cache, if any; ConfigurationError if a secret cannot be read, or is too long."""
        cache = config.cache
        real = any(one.engine.simulated is None for one in config.each_model().values())
        if not (cache.enabled if cache.enabled is not None else real):
            return None
        secret = (read_secret(cache.secret_file, "cache.secret_file", environment.get(SECRET_VARIABLE)) or "").encode()
        if len(secret) > MAX_SECRET_BYTES:
            raise ConfigurationError(f"the cache's secret has {len(secret)} bytes; at most {MAX_SECRET_BYTES} are used")
        memory = MemoryStore(cache.memory_mib * 2**20) if cache.memory_mib else None
        link = RedisLink.of(cache.redis, environment, "score cache")
        shared = RedisStore(link, cache.redis, secret) if link else None
        return cls(memory, shared, secret) if memory or shared else None

    @asynccontextmanager
    async def look_up(
        self,
        terms: ListTerms,
        documents: Sequence[str],
        mode: CacheMode | None,
        weight: float,
        stage: AbstractContextManager[None] | None = None,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> AsyncIterator[Lookup]:
        """Find what is known of a list, which is one `stage`, and take upon it what is not, while the block lasts.

        See `Lookup` for the mode and the weight. Long texts are hashed `in_thread`.
        """
        lookup = None
        self._open += 1
        try:
            with stage or nullcontext():
                if len(terms.query) + sum(map(len, documents)) < _LONG_CHARACTERS:
                    keys = document_keys(terms, documents, self._secret)
                else:
                    keys = await in_thread(document_keys, terms, documents, self._secret)
                lookup = Lookup(keys, mode, self._stores, self._flights, weight)
                await lookup.read()
            yield lookup
        finally:
            self._open -= 1
            if lookup is not None:
                lookup.close()
                self._counts.update(hits=lookup.found, misses=lookup.missed, coalesced=lookup.coalesced)

    def check_integrity(self) -> None:
        if len(self._flights) and not self._open:
            raise RuntimeError(f"{len(self._flights)} documents in flight, but no list. This is a bug.")

    @property
    def statistics(self) -> Statistics:
        stores: dict[str, Store | None] = {"memory": self._memory, "redis": self._shared}
        return {**self._counts, **{name: store.statistics for name, store in stores.items() if store is not None}}

    def clear_memory(self) -> None:
        if self._memory is not None:
            self._memory.clear()

    async def clear_shared(self) -> None:
        """Forget what all ingress replicas share; CacheUnavailableError if that fails, or only a part is forgotten."""
        if self._shared is not None:
            await self._shared.clear()

    async def aclose(self) -> None:
        if self._shared is not None:
            await self._shared.aclose()


def report(caches: Sequence[Statistics]) -> dict[str, Any]:
    """Add up the statistics of all ingress replicas that have a cache; a truth value holds if it holds in each."""
    if not caches:
        return {"enabled": False}
    total = _sum(caches)
    known = total["hits"] + total["coalesced"]
    asked = known + total["misses"]
    rate = round(known / asked, 4) if asked else None
    return {"enabled": True, "ingress_replicas": len(caches), "hit_rate": rate} | total


def _sum(groups: Sequence[Any]) -> dict[str, Any]:  # Any: numbers, truth values, and groups of them
    total: dict[str, Any] = {}
    for name, first in groups[0].items():
        add = _sum if isinstance(first, dict) else all if isinstance(first, bool) else sum
        total[name] = add([group[name] for group in groups])
    return total
