"""Memory before Redis: what one replica has had scored another finds in Redis once, and in its memory from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reranker.cache.entry import Entry
from reranker.cache.keys import ListTerms
from reranker.cache.memory import MemoryStore
from reranker.cache.redis import RedisLink, RedisStore, redis_client
from reranker.cache.score_cache import ScoreCache
from reranker.config import RedisConfig
from reranker.model.prompt import CuttingPolicy
from tests.redis_server import RedisServer

TERMS = ListTerms("model", "prompts", "", "instruction", "query", CuttingPolicy())
ENTRY = Entry(b"\1\0\0\0\0\0\x80?")
TEXTS = [f"document {number}" for number in range(10)]


def _cache(server: RedisServer) -> ScoreCache:
    config = RedisConfig(url=server.url, budget_s=2)
    link = RedisLink(redis_client(config, None), config.budget_s, "score cache")
    return ScoreCache(MemoryStore(2**20), RedisStore(link, config))


async def _unknown(cache: ScoreCache, texts: Sequence[str] = TEXTS) -> int:
    """Look a list up, and have scored what is not known; gives how many that were."""
    async with cache.look_up(TERMS, texts, None, 1) as lookup:
        missing = lookup.to_score
        lookup.keep(missing, [ENTRY] * len(missing))
        assert lookup.entries == [ENTRY] * len(texts)
    return len(missing)


async def test_farther_store_is_asked_for_what_the_nearer_one_lacks_and_fills_it(redis_server: RedisServer) -> None:
    one, other = _cache(redis_server), _cache(redis_server)
    try:
        assert await _unknown(one) == 10
        await asyncio.sleep(0.1)  # it is written in the background
        assert await _unknown(other, [*TEXTS[:5], "new"]) == 1
        redis_server.kill()
        assert await _unknown(other, TEXTS[:5]) == 0  # from its memory now
        assert other.statistics["memory"] == other.statistics["memory"] | {"entries": 6}  # type: ignore[operator]
        assert (other.statistics["hits"], other.statistics["misses"], other.statistics["coalesced"]) == (10, 1, 0)
    finally:
        await one.aclose()
        await other.aclose()


async def test_cleared_is_cleared_in_both(redis_server: RedisServer) -> None:
    cache = _cache(redis_server)
    try:
        assert await _unknown(cache) == 10
        await cache.clear_shared()
        cache.clear_memory()
        assert await _unknown(cache) == 10
    finally:
        await cache.aclose()
