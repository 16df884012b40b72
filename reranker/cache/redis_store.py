"""Entries in a Redis that all ingress replicas share. Slow, away, full or wrong, it costs the cache, never the request.

A look-up has a time budget. After a few failures in a row nothing is asked any more, until Redis answers a probe in
the background; no list waits for that. What is written is written in the background too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from redis import RedisError

from reranker import metrics
from reranker.cache.entry import Entry, is_entry
from reranker.cache.key import LIST_BYTES
from reranker.cache.redis_client import CONNECT_TIMEOUT_S, MAX_CONNECTIONS, RedisClient, disconnect
from reranker.cache.use import Use
from reranker.config import RedisConfig
from reranker.errors import CacheUnavailableError

logger = logging.getLogger(__name__)

_FAILURES = 3
"""In a row, until Redis is left alone."""
_PAUSE_S = 1.0
"""Between two probes; and after a write that failed, until the next is tried."""
_MAX_WRITES = 64
"""Lists being written at once; what comes on top is not kept."""
_CHECK_BYTES = 8
_CLEAR_KEYS = 1_000
_Given = TypeVar("_Given")


class RedisStore:
    """See `reranker.cache.store.Store`.

    A value is a check of 8 bytes, and the entry: 16 bytes for a document in one window. The check is keyed with the
    secret and covers the key, so bytes that are not ours, or belong to another key, are a miss.
    """

    def __init__(self, client: RedisClient, config: RedisConfig, secret: bytes = b"") -> None:
        """Ask nothing yet.

        Args:
            client: Of that Redis.
            config: Budget, prefix, time to live.
            secret: As of the keys.
        """
        self._reachable, self._writable = False, True
        self._errors = self._wrong_values = 0
        self._client, self._config = client, config
        self._check = blake2b(digest_size=_CHECK_BYTES, key=secret, person=b"reranker-value")
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._failures = 0
        self._down = False  # said so in the log
        self._probe: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()  # Any: what the call gives
        self._writes: set[asyncio.Task[None]] = set()
        self._closed = False
        self._write_again_s = 0.0

    @property
    def use(self) -> Use:
        """How it has done so far."""
        return {
            "reachable": self._reachable,
            "writable": self._writable,
            "errors": self._errors,
            "wrong_values": self._wrong_values,
        }

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Look up keys, in one round trip."""
        if not await self._is_usable():
            metrics.REDIS_SKIPPED.inc()
            return [None] * len(keys)
        started_s = time.perf_counter()
        try:
            values = await self._within(self._config.budget_s, self._read([self._name(key) for key in keys]))
            entries = [self._entry(key, value) for key, value in zip(keys, values, strict=True)]
        except Exception as error:  # noqa: BLE001 - whatever Redis or its client does, the list goes on
            self._failed(error)
            return [None] * len(keys)
        finally:
            metrics.REDIS_SECONDS.observe(time.perf_counter() - started_s)
        self._failures = 0
        return entries

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Write entries in the background, in one round trip."""
        if not self._reachable or len(self._writes) >= _MAX_WRITES or time.monotonic() < self._write_again_s:
            metrics.REDIS_SKIPPED.inc()
            return
        task = asyncio.create_task(self._write(entries))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def clear(self) -> None:
        """Delete every key that begins with our prefix.

        Raises:
            CacheUnavailableError: It could not be done, or not to the end.
        """
        await self.written()
        found: list[bytes] = []
        try:
            async for name in self._client.scan_iter(match=f"{self._config.prefix}:*", count=_CLEAR_KEYS):
                found.append(name)
                if len(found) == _CLEAR_KEYS:
                    await self._unlink(found)
                    found.clear()
            await self._unlink(found)
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("score cache: Redis could not be cleared (%s)", _said(error))
            raise CacheUnavailableError from None

    async def written(self) -> None:
        """Wait until nothing is being written."""
        await asyncio.gather(*self._writes)

    async def aclose(self) -> None:
        """Write what is to be written, and disconnect."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
        await asyncio.gather(*filter(None, [self._probe]), *self._calls, *self._writes, return_exceptions=True)
        await disconnect(self._client)

    async def _is_usable(self) -> bool:
        if not self._reachable and self._probe is None:
            self._probe = asyncio.create_task(self._until_it_answers())
        if self._probe is not None and not self._down:  # the first connection: worth a budget's wait
            await asyncio.wait([self._probe], timeout=self._config.budget_s)
        return self._reachable

    async def _until_it_answers(self) -> None:
        while not (self._reachable or self._closed):
            try:
                await self._within(CONNECT_TIMEOUT_S, self._ping())  # connects
                await self._within(self._config.budget_s, self._ping())
            except Exception as error:  # noqa: BLE001 - as above
                self._is_down(error)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._reachable, self._failures, self._probe = True, 0, None
                if self._down:
                    self._down = False
                    logger.info("score cache: Redis answers again")

    def _failed(self, error: Exception) -> None:
        self._count_error()
        self._failures += 1
        if self._failures >= _FAILURES and self._reachable:
            self._reachable = False
            self._is_down(error)
            self._probe = asyncio.create_task(self._until_it_answers())

    def _is_down(self, error: Exception) -> None:
        if not self._down:
            self._down = True
            logger.warning("score cache: Redis does not answer (%s); going on without it", _said(error))

    async def _within(self, seconds: float, call: Coroutine[Any, Any, _Given]) -> _Given:
        """Wait for a call so long at most; after that, leave it to its own timeout.

        Not with `asyncio.timeout`: redis-py 8.1 at times loses the cancellation while it connects to a server that is
        paused, and the list would wait for seconds.
        """
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait([task], timeout=seconds)
            if not task.done():
                raise TimeoutError
            return task.result()
        finally:
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # of a call that nobody waits for any more: else asyncio would log it

    async def _read(self, names: Sequence[bytes]) -> Sequence[Any]:
        async with self._slots:
            return await self._client.mget(names)

    async def _ping(self) -> None:
        await self._client.ping()

    async def _write(self, entries: Mapping[bytes, Entry]) -> None:
        try:
            async with self._slots:
                pipeline = self._client.pipeline(transaction=False)
                for key, entry in entries.items():
                    pipeline.set(self._name(key), self._digest(key, entry) + entry, ex=self._config.ttl_s)
                await pipeline.execute()
        except Exception as error:  # noqa: BLE001 - as above
            self._count_error()
            self._write_again_s = time.monotonic() + _PAUSE_S
            if self._writable:
                self._writable = False
                logger.warning("score cache: Redis takes no new scores (%s); going on without", _said(error))
        else:
            if not self._writable:
                self._writable = True
                logger.info("score cache: Redis takes new scores again")

    async def _unlink(self, names: Sequence[bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for name in names:  # one by one: in a cluster they are in many slots
            pipeline.execute_command("UNLINK", name)  # a cluster's `unlink` does not queue
        if names:
            await pipeline.execute()

    def _count_error(self) -> None:
        self._errors += 1
        metrics.REDIS_ERRORS.inc()

    def _name(self, key: bytes) -> bytes:
        # What is in braces decides on the node of a cluster: all pairs of a list are on one, a single round trip away.
        return f"{self._config.prefix}:{{{key[:LIST_BYTES].hex()}}}".encode() + key[LIST_BYTES:]

    def _entry(self, key: bytes, value: Any) -> Entry | None:
        if value is None:
            return None
        # (Any: redis-py types what it gives for every setting at once; with ours it is bytes.)
        check, content = value[:_CHECK_BYTES], value[_CHECK_BYTES:]
        if check == self._digest(key, content) and is_entry(content):
            return Entry(content)
        self._wrong_values += 1
        metrics.REDIS_WRONG_VALUES.inc()
        return None

    def _digest(self, key: bytes, content: bytes) -> bytes:
        check = self._check.copy()
        check.update(key + content)
        return check.digest()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
