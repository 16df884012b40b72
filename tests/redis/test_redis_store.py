"""What one ingress replica writes another finds; whatever else Redis holds, or does, is a miss and never an error."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import pytest

from reranker.cache.entry import Entry
from reranker.cache.redis import RedisStore
from reranker.errors import CacheUnavailableError
from tests.counted import Counted
from tests.redis.conftest import ENTRIES, KEYS, fill, store_on
from tests.redis_server import RedisServer

_RECOVERY_S = 20


async def _until_reachable(store: RedisStore, reachable: bool) -> None:
    async with asyncio.timeout(_RECOVERY_S):
        while store.statistics["reachable"] != reachable:
            await store.get_many(KEYS)
            await asyncio.sleep(0.02)


async def test_entries_of_one_replica_are_found_by_another(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url) as one, store_on(redis_server.url) as other:
        await fill(one)
        assert await other.get_many(KEYS) == list(ENTRIES.values())
        assert other.statistics == {"reachable": True, "writable": True, "errors": 0, "wrong_values": 0}


async def test_value_takes_16_bytes_expires_and_tells_nothing(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url, ttl_s=1_000, prefix="ours") as store:
        await fill(store)
        client = redis_server.client()
        names = client.keys()
        assert len(names) == len(KEYS)
        assert all(name.startswith(b"ours:{") and len(name) == len("ours:{}") + 16 + 16 for name in names)
        assert {client.strlen(name) for name in names} == {16}
        assert all(0 < client.ttl(name) <= 1_000 for name in names)
        client.close()


async def test_a_list_is_one_round_trip_each_way(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url) as store:
        await fill(store)
        client = redis_server.client()
        before = client.info("commandstats")
        reads = client.info("stats")["total_reads_processed"]
        await store.get_many(KEYS)
        store.put_many(ENTRIES)
        await store.written()
        after = client.info("commandstats")
        assert after["cmdstat_mget"]["calls"] - before["cmdstat_mget"]["calls"] == 1
        assert after["cmdstat_set"]["calls"] - before["cmdstat_set"]["calls"] == len(KEYS)
        assert client.info("stats")["total_reads_processed"] - reads <= 4  # ours, and this test's own two
        client.close()


def _garbage(value: bytes) -> bytes:
    return random.Random(1).randbytes(len(value))


@pytest.mark.parametrize(
    "spoil", [_garbage, lambda value: b"", lambda value: value[:-1], lambda value: value + b"\0\0\0\0"]
)
async def test_wrong_bytes_are_a_miss_and_are_counted(
    redis_server: RedisServer, spoil: Callable[[bytes], bytes]
) -> None:
    async with store_on(redis_server.url) as store:
        await fill(store)
        client = redis_server.client()
        for name in client.scan_iter():
            client.set(name, spoil(client.get(name) or b""))
        client.close()
        assert await store.get_many(KEYS) == [None] * len(KEYS)
        assert store.statistics["wrong_values"] == len(KEYS)


async def test_values_that_changed_places_are_a_miss(redis_server: RedisServer) -> None:
    """Each is a good one, of another key."""
    async with store_on(redis_server.url) as store:
        await fill(store)
        client = redis_server.client()
        names = sorted(client.keys())
        values = client.mget(names)
        client.mset(dict(zip(names, values[1:] + values[:1], strict=True)))
        client.close()
        assert await store.get_many(KEYS) == [None] * len(KEYS)


async def test_keys_of_another_type_are_a_miss_and_are_replaced(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url) as store:
        await fill(store)
        client = redis_server.client()
        for name in client.scan_iter():
            client.delete(name)
            client.rpush(name, "a list")
        client.close()
        assert await store.get_many(KEYS) == [None] * len(KEYS)
        store.put_many(ENTRIES)
        await store.written()
        assert await store.get_many(KEYS) == list(ENTRIES.values())


async def test_value_without_our_secret_is_a_miss(redis_server: RedisServer) -> None:
    """Whoever can write to Redis cannot make up a score."""
    async with store_on(redis_server.url) as forger, store_on(redis_server.url, secret=b"secret") as store:
        await fill(forger)
        assert await store.get_many(KEYS) == [None] * len(KEYS)
        assert store.statistics["wrong_values"] == len(KEYS)


async def test_killed_redis_is_left_alone_and_found_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted()
    async with store_on(redis_server.url) as store:
        await fill(store)
        with caplog.at_level(logging.INFO, "reranker"):
            redis_server.kill()
            await _until_reachable(store, False)
            for _ in range(20):
                assert await store.get_many(KEYS) == [None] * len(KEYS)
                store.put_many(ENTRIES)
            redis_server.start()
            await _until_reachable(store, True)
            await fill(store)
            assert await store.get_many(KEYS) == list(ENTRIES.values())
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2  # once for each change, however many lists came by
        assert "does not answer" in said[0]
        assert "answers again" in said[1]
        errors = counted("reranker_cache_redis_errors_total")
        assert errors == store.statistics["errors"]
        assert errors >= 3
        assert counted("reranker_cache_redis_skipped_total") >= 40


async def test_paused_redis_costs_a_list_its_budget_at_most(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url, budget_s=0.2) as store:
        await fill(store)
        redis_server.pause()
        try:
            started_s = time.monotonic()
            await asyncio.gather(*(store.get_many(KEYS) for _ in range(64)))
            took_s = time.monotonic() - started_s
            assert store.statistics["reachable"] is False
        finally:
            redis_server.resume()
        # Were nothing bounded it would wait for ever; with a wait per connection, for seconds.
        assert took_s < 2, took_s
        await _until_reachable(store, True)
        assert await store.get_many(KEYS) == list(ENTRIES.values())


async def test_redis_that_was_never_there_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    async with store_on("redis://127.0.0.1:1/0") as store:
        for _ in range(5):
            assert await store.get_many(KEYS) == [None] * len(KEYS)
            store.put_many(ENTRIES)
        async with asyncio.timeout(_RECOVERY_S):
            while not caplog.records:  # noqa: ASYNC110 - a log line has no event to wait for
                await asyncio.sleep(0.01)
        with pytest.raises(CacheUnavailableError):
            await store.clear()
        assert len([one for one in caplog.records if "does not answer" in one.getMessage()]) == 1


async def test_full_redis_goes_on_answering(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with store_on(redis_server.url) as store:
        await fill(store)
        client = redis_server.client()
        client.config_set("maxmemory", "1mb")
        new = {key[:8] + b"new" + key[11:]: entry for key, entry in ENTRIES.items()}
        with caplog.at_level(logging.INFO, "reranker"):
            store.put_many(new)
            await store.written()
            store.put_many(new)  # too soon after: not even tried
            await store.written()
            assert store.statistics["writable"] is False
            assert await store.get_many(KEYS) == list(ENTRIES.values())
            store._write_again_s = 0
            store.put_many(new)
            await store.written()
            client.config_set("maxmemory", "0")
            store._write_again_s = 0
            store.put_many(new)
            await store.written()
        client.close()
        assert await store.get_many(list(new)) == list(new.values())
        assert [one.getMessage().partition("(")[0].strip() for one in caplog.records] == [
            "score cache: Redis takes no new scores",
            "score cache: Redis takes new scores again",
        ]


async def test_somebody_else_on_that_port_is_a_miss() -> None:
    """A web server, say: what it answers is no Redis protocol."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with store_on(f"redis://127.0.0.1:{port}/0") as store:
            assert await store.get_many(KEYS) == [None] * len(KEYS)
            assert store.statistics["reachable"] is False


async def test_clearing_deletes_ours_and_nothing_else(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url) as store:
        await fill(store)
        many = {b"list no2" + number.to_bytes(16, "big"): Entry(b"\0\0\0\0\0\0\x80?") for number in range(1_500)}
        store.put_many(many)
        await store.written()
        client = redis_server.client()
        client.set("somebody else's", 1)
        await store.clear()
        assert client.keys() == [b"somebody else's"]
        await store.clear()
        client.close()


async def test_what_too_many_lists_write_at_once_is_not_kept(redis_server: RedisServer) -> None:
    counted = Counted()
    async with store_on(redis_server.url) as store:
        await fill(store)
        for _ in range(100):
            store.put_many(ENTRIES)
        assert counted("reranker_cache_redis_skipped_total") == 36
        await store.written()
