"""A store on a real Redis, its client closed with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from reranker.cache.entry import Entry
from reranker.cache.redis import RedisLink, RedisStore, redis_client
from reranker.config import RedisConfig
from tests.redis_server import redis_server

__all__ = ["redis_server"]

LIST = b"list no1"
ENTRIES = {LIST + bytes([number]) * 16: Entry(bytes([number]) * 4 + b"\0\0\x80?") for number in range(20)}
KEYS = list(ENTRIES)


@asynccontextmanager
async def store_on(
    url: str, *, password: str | None = None, secret: bytes = b"", **settings: Any
) -> AsyncIterator[RedisStore]:
    """A store with its own connections. A generous budget: the machine may be busy."""
    config = RedisConfig(**({"url": url, "budget_s": 1} | settings))
    link = RedisLink(redis_client(config, password), config.budget_s, "score cache")
    store = RedisStore(link, config, secret)
    try:
        yield store
    finally:
        await store.aclose()


async def fill(store: RedisStore) -> None:
    """Write all entries, once the store is connected."""
    assert await store.get_many(KEYS) == [None] * len(KEYS)
    store.put_many(ENTRIES)
    await store.written()
