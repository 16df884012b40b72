"""Entries in this process's memory: when it is full, the least recently used go."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from lru import LRU

from reranker import metrics
from reranker.cache import Statistics
from reranker.cache.entry import Entry

_OVERHEAD_BYTES = 340
"""Of an entry, besides its content: the key, two objects' headers, its places in a hash table and a chain.

Measured as the growth of a process through which a million pairs go (tests/unit/test_cache_memory.py holds it): 220 to
280 bytes an entry, as the hash table is more or less full, and some MiB when it grows.
"""


class MemoryStore:
    """Keeps entries in at most `max_bytes`. To be used from one event loop; no call ever waits."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRU[bytes, Entry] = LRU(sys.maxsize)  # it bounds the number of entries; we bound their bytes
        self._bytes, self._max_bytes = 0, max_bytes
        self._evictions = 0

    @property
    def statistics(self) -> Statistics:
        counts = {"entries": len(self._entries), "bytes": self._bytes}
        return counts | {"max_bytes": self._max_bytes, "evictions": self._evictions}

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        get = self._entries.get
        return [get(key) for key in keys]

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        evictions = 0
        for key, entry in entries.items():
            replaced = self._entries.pop(key, None)
            self._entries[key] = entry
            self._bytes += _cost_bytes(entry) - (_cost_bytes(replaced) if replaced else 0)
            while self._bytes > self._max_bytes and (oldest := self._entries.peek_last_item()):
                del self._entries[oldest[0]]  # not popitem(): in lru-dict 1.4.1 it leaks what it gives
                self._bytes -= _cost_bytes(oldest[1])
                evictions += 1
        self._evictions += evictions
        metrics.CACHE_EVICTIONS.inc(evictions)
        metrics.CACHE_BYTES.set(self._bytes)

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0
        metrics.CACHE_BYTES.set(0)


def _cost_bytes(entry: Entry) -> int:
    return _OVERHEAD_BYTES + len(entry)
