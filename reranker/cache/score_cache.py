"""The score cache of one ingress replica: its stores, and what is being scored now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from reranker.cache.flights import Flights
from reranker.cache.key import ListTerms, document_keys
from reranker.cache.lookup import Lookup
from reranker.cache.memory import MemoryStore
from reranker.cache.redis_store import RedisStore
from reranker.cache.store import Store
from reranker.cache.use import Use
from reranker.types import CacheMode

_LONG_CHARACTERS = 200_000
"""Of a list below that, all is hashed in a millisecond: not worth a thread."""


class ScoreCache:
    """Remembers scores. To be used from one event loop."""

    def __init__(
        self, memory: MemoryStore | None = None, shared: RedisStore | None = None, secret: bytes = b""
    ) -> None:
        """Start with nothing in flight.

        Args:
            memory: Of this ingress replica alone.
            shared: With the others.
            secret: See `document_keys`.
        """
        self._memory, self._shared = memory, shared
        self._stores: list[Store] = [store for store in (memory, shared) if store is not None]
        self._hits = self._misses = self._coalesced = 0
        self._secret = secret
        self._flights = Flights()
        self._open = 0

    @asynccontextmanager
    async def look_up(
        self, terms: ListTerms, documents: Sequence[str], mode: CacheMode | None, weight: float
    ) -> AsyncIterator[Lookup]:
        """Find what is known of a list, and take upon it what is not, for as long as the block lasts.

        Args:
            terms: The list's.
            documents: Its documents.
            mode: What the request allows. None: everything.
            weight: Its share of an engine against other lists.
        """
        if sum(map(len, documents)) < _LONG_CHARACTERS:
            keys = document_keys(terms, documents, self._secret)
        else:
            keys = await asyncio.to_thread(document_keys, terms, documents, self._secret)
        self._open += 1
        lookup = Lookup(keys, terms.model, mode, self._stores, self._flights, weight)
        try:
            await lookup.read()
            yield lookup
        finally:
            lookup.close()
            self._open -= 1
            self._hits += lookup.found
            self._misses += lookup.missed
            self._coalesced += lookup.coalesced

    def check_integrity(self) -> None:
        """Raise RuntimeError if anything is waited for that no list is having scored."""
        if len(self._flights) and not self._open:
            raise RuntimeError(f"{len(self._flights)} documents in flight, but no list. This is a bug.")

    @property
    def use(self) -> Use:
        """What it holds and has done."""
        use: dict[str, int | bool | Use] = {
            "hits": self._hits,
            "misses": self._misses,
            "coalesced": self._coalesced,
        }
        if self._memory is not None:
            use["memory"] = self._memory.use
        if self._shared is not None:
            use["redis"] = self._shared.use
        return use

    def clear_memory(self) -> None:
        """Forget what is in this process."""
        if self._memory is not None:
            self._memory.clear()

    async def clear_shared(self) -> None:
        """Forget what all ingress replicas share.

        Raises:
            CacheUnavailableError: It could not be done, or not to the end.
        """
        if self._shared is not None:
            await self._shared.clear()

    async def aclose(self) -> None:
        """Finish what is under way, and let go of every connection."""
        if self._shared is not None:
            await self._shared.aclose()
