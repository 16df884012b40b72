"""Entries in this process's memory: the least recently used are given up when it is full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from reranker import metrics
from reranker.cache.entry import Entry
from reranker.metrics import Recorder

_OVERHEAD_BYTES = 330
"""Of an entry, besides its own content: the key (24 bytes), two objects' headers, three hash tables' places.

Measured (tests/unit/test_cache_memory.py holds it): what a process grows by, over the entries it has, when a million
pairs have gone through.
"""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How full a memory store is."""

    entries: int
    bytes: int
    max_bytes: int
    evictions: int


class _CountingCache(LRUCache[bytes, Entry]):
    evictions = 0

    def popitem(self) -> tuple[bytes, Entry]:
        """Called where there is no room for one more."""
        self.evictions += 1
        return super().popitem()


class MemoryStore:
    """See `reranker.cache.store.Store`. To be used from one event loop; no call ever waits."""

    def __init__(self, max_bytes: int, recorder: Recorder) -> None:
        """Start empty.

        Args:
            max_bytes: What the process may grow by.
            recorder: Where size and evictions go.
        """
        self._recorder = recorder
        self._entries = _CountingCache(max_bytes, getsizeof=_cost_bytes)

    @property
    def use(self) -> MemoryUse:
        """How full it is."""
        entries = self._entries
        return MemoryUse(len(entries), int(entries.currsize), int(entries.maxsize), entries.evictions)

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Look up keys."""
        get = self._entries.get
        return [get(key) for key in keys]

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries; one that is larger than the whole store is not kept."""
        limit, evictions = self._entries.maxsize, self._entries.evictions
        for key, entry in entries.items():
            if _cost_bytes(entry) <= limit:
                self._entries[key] = entry
        self._recorder.count(metrics.CACHE_EVICTIONS, self._entries.evictions - evictions)
        self._recorder.set(metrics.CACHE_BYTES, self._entries.currsize)

    async def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._recorder.set(metrics.CACHE_BYTES, 0)

    async def aclose(self) -> None:
        """There is nothing to let go of."""


def _cost_bytes(entry: Entry) -> int:
    return _OVERHEAD_BYTES + len(entry)
