"""A cache without stores, or without one of them, does what is left to do; and it notices its own mistakes."""

from __future__ import annotations

import pytest

from reranker.cache.keys import ListTerms
from reranker.cache.score_cache import ScoreCache
from reranker.model.prompt import CuttingPolicy

TERMS = ListTerms("model", "prompts", "", "instruction", "query", CuttingPolicy())


async def test_cache_without_stores_only_sees_who_waits_for_whom() -> None:
    cache = ScoreCache()
    async with cache.look_up(TERMS, ["a", "b", "a"], None, 1) as first:
        assert first.to_score == [0, 1]
        async with cache.look_up(TERMS, ["b", "c"], None, 1) as second:
            assert second.to_score == [1]
    cache.clear_memory()
    await cache.clear_shared()
    await cache.aclose()
    assert cache.statistics == {"hits": 0, "misses": 0, "coalesced": 0}
    cache.check_integrity()


async def test_document_that_nobody_has_scored_any_more_is_a_bug() -> None:
    cache = ScoreCache()
    async with cache.look_up(TERMS, ["a"], None, 1) as lookup:
        cache.check_integrity()
        lookup._own.clear()  # as if it had been forgotten
    with pytest.raises(RuntimeError, match="This is a bug"):
        cache.check_integrity()
