"""Memory for scores is bounded, as the process itself measures it; what is asked for again and again stays."""

from __future__ import annotations

import subprocess
import sys

from reranker.cache.entry import Entry
from reranker.cache.memory import MemoryStore
from tests.counted import Counted, gauge

ENTRY = Entry(b"\0\0\0\0\0\0\x80?")

_MILLION = """
import os, resource
from pathlib import Path
from reranker.cache.memory import MemoryStore

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

store = MemoryStore(LIMIT)
before, most = resident(), 0
for batch in range(1_000):
    store.put_many({os.urandom(24): os.urandom(8) for _ in range(1_000)})
    most = max(most, resident() - before)
print(most, store.statistics["entries"], store.statistics["evictions"])
"""


def _grow(limit: int) -> tuple[int, int, int]:
    program = _MILLION.replace("LIMIT", str(limit))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    most, entries, evictions = map(int, done.stdout.split())
    return most, entries, evictions


def test_million_distinct_pairs_take_no_more_than_the_bound() -> None:
    """Not what the store believes: what the process has grown by, at its largest."""
    limit = 64 * 2**20
    most, entries, evictions = _grow(limit)
    assert entries + evictions == 1_000_000
    assert entries > 150_000
    assert most <= limit


async def test_least_recently_used_is_given_up() -> None:
    counted = Counted()
    store = MemoryStore(4_000)
    keys = [bytes([number]) * 24 for number in range(40)]
    for key in keys:
        store.put_many({key: ENTRY})
        assert await store.get_many(keys[:1]) == [ENTRY]
    assert store.statistics["entries"] == 40 - counted("reranker_cache_evictions_total") < 40
    assert gauge("reranker_cache_bytes") == store.statistics["bytes"]
    assert await store.get_many([keys[1], keys[39]]) == [None, ENTRY]
    store.clear()
    assert store.statistics["entries"] == gauge("reranker_cache_bytes") == 0


async def test_document_larger_than_the_store_is_not_kept() -> None:
    store = MemoryStore(1_000)
    store.put_many({b"key": Entry(bytes(4_000))})
    assert (store.statistics["entries"], store.statistics["bytes"]) == (0, 0)


def test_entry_that_is_written_again_counts_once() -> None:
    store = MemoryStore(10_000)
    for entry in (ENTRY, Entry(ENTRY * 3), ENTRY):
        store.put_many({b"key": entry})
    assert store.statistics["entries"] == 1
    used = store.statistics["bytes"]
    store.clear()
    store.put_many({b"key": ENTRY})
    assert store.statistics["bytes"] == used
