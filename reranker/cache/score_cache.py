"""The score cache of one ingress replica: its stores, and what is being scored now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from reranker.cache.flights import Flights
from reranker.cache.key import ListTerms, document_keys
from reranker.cache.lookup import Lookup
from reranker.cache.store import Store
from reranker.types import CacheMode

_LONG_CHARACTERS = 200_000
"""Of a list below that, all is hashed in a millisecond: not worth a thread."""


class ScoreCache:
    """Remembers scores. To be used from one event loop."""

    def __init__(self, stores: Sequence[Store], secret: bytes = b"") -> None:
        """Start with nothing in flight.

        Args:
            stores: The nearest first.
            secret: See `document_keys`.
        """
        self.stores = stores
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
        lookup = Lookup(keys, terms.model, mode, self.stores, self._flights, weight)
        try:
            await lookup.read()
            yield lookup
        finally:
            lookup.close()
            self._open -= 1

    def check_integrity(self) -> None:
        """Raise RuntimeError if anything is waited for that no list is having scored."""
        if len(self._flights) and not self._open:
            raise RuntimeError(f"{len(self._flights)} documents in flight, but no list. This is a bug.")

    async def clear(self) -> None:
        """Forget everything."""
        for store in self.stores:
            await store.clear()

    async def aclose(self) -> None:
        """Finish what is under way, and let go of every connection."""
        for store in self.stores:
            await store.aclose()
