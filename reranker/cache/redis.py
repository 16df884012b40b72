"""The Redis that all ingress replicas share. When it is slow, away, full or wrong, no request fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import unquote

from pydantic_core import MultiHostUrl
from redis import RedisError
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from reranker import metrics
from reranker.cache import Statistics
from reranker.cache.entry import Entry, is_entry
from reranker.cache.keys import LIST_BYTES
from reranker.config import RedisConfig
from reranker.errors import CacheUnavailableError, ConfigurationError

logger = logging.getLogger(__name__)

RedisClient: TypeAlias = Redis | RedisCluster
PASSWORD_VARIABLE = "RERANKER_REDIS_PASSWORD"  # noqa: S105 - a name
_CONNECT_TIMEOUT_S = 2.0  # of every call, too; a request that waits for one gives up far earlier
_MAX_CONNECTIONS = 32
_FAILURES = 3  # in a row, after which Redis is left alone
_PAUSE_S = 1.0  # between two pings of a Redis that is away, and after a write that failed
_MAX_WRITES = 64  # lists being written at once; further ones are not kept
_CHECK_BYTES = 8
_CLEAR_KEYS = 1_000
_Answer = TypeVar("_Answer")


def redis_client(config: RedisConfig, password: str | None) -> RedisClient:
    """Make a client of what `cache.redis.url` names. It connects with its first call."""
    url = config.url or ""
    address = MultiHostUrl(url)
    protocol, _, kind = address.scheme.partition("+")
    options: dict[str, Any] = {  # Any: redis-py's own arguments
        "password": password,
        "socket_timeout": _CONNECT_TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "protocol": 2,
        "max_connections": _MAX_CONNECTIONS,
    }
    if protocol == "rediss":
        files = {"ssl_ca_certs": config.ca_file, "ssl_certfile": config.cert_file, "ssl_keyfile": config.key_file}
        options |= {name: str(file) for name, file in files.items() if file}
    if kind != "cluster":  # once more, at once: an idle connection of the pool may have been closed
        options["retry"] = Retry(NoBackoff(), 1)
    if not kind:
        return Redis.from_url(url, **options)
    hosts = [((one["host"] or "").strip("[]"), one["port"]) for one in address.hosts()]
    options["ssl"] = protocol == "rediss"
    user = unquote(address.hosts()[0]["username"] or "") or None
    if kind == "cluster":
        nodes = [ClusterNode(host, port or 6379) for host, port in hosts]
        return RedisCluster(startup_nodes=nodes, username=user, **options)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [(host, port or 26379) for host, port in hosts], sentinel_kwargs=options, username=user, **options
    )
    name, _, database = (address.path or "").strip("/").partition("/")
    master: Redis = sentinel.master_for(unquote(name), db=int(database or 0))
    return master


def read_secret(file: Path | None, name: str, otherwise: str | None) -> str | None:
    """Read a file with a secret, or raise ConfigurationError with the configuration's key, `name`."""
    if file is None:
        return otherwise
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{name} {file}: {reason}") from None


class RedisLink:
    """A Redis that may be away at any moment, and the only owner of its client.

    A call has a time budget. After a few failures in a row there are no calls until Redis answers a ping in the
    background; no request waits for that. To be used from one event loop.
    """

    def __init__(self, client: RedisClient, budget_s: float, purpose: str) -> None:
        self.client = client
        self.reachable = False
        self.slots = asyncio.Semaphore(_MAX_CONNECTIONS)  # redis-py's pools do not wait for a free connection
        self._budget_s, self._purpose = budget_s, purpose  # the purpose begins each line of the log
        self._failures = 0
        self._down = False  # and the log says so
        self._pings: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()  # Any: what the call gives

    @classmethod
    def of(cls, config: RedisConfig, environment: Mapping[str, str], purpose: str) -> Self | None:
        """Make the link to the configured Redis, if there is one; ConfigurationError if its password is unreadable."""
        if config.url is None:
            return None
        password = read_secret(config.password_file, "cache.redis.password_file", environment.get(PASSWORD_VARIABLE))
        return cls(redis_client(config, password), config.budget_s, purpose)

    async def usable(self) -> bool:
        """Whether Redis may be asked. The first call connects, within the budget."""
        if not self.reachable and self._pings is None:
            self._pings = asyncio.create_task(self._ping_until_it_answers())
        if self._pings is not None and not self._down:
            await asyncio.wait([self._pings], timeout=self._budget_s)
        return self.reachable

    async def ask(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """Make a call of the client, within the budget. None: it failed, or took too long."""
        try:
            answer = await self._within(self._budget_s, call)
        except Exception as error:  # noqa: BLE001 - whatever Redis or its client does, the request goes on
            self._failures += 1
            if self._failures >= _FAILURES:
                self.reachable = False
                self._log_down(error)
            return None
        self._failures = 0
        return answer

    async def aclose(self) -> None:
        if self._pings is not None:
            self._pings.cancel()
        await asyncio.gather(*filter(None, [self._pings]), *self._calls, return_exceptions=True)
        pool = getattr(self.client, "connection_pool", None)  # a cluster's client has one for each node
        await self.client.aclose()
        if isinstance(pool, SentinelConnectionPool):
            await pool.sentinel_manager.aclose()  # the client closes the master's connections only

    async def _ping_until_it_answers(self) -> None:
        while not self.reachable:
            try:
                for budget_s in (_CONNECT_TIMEOUT_S, self._budget_s):  # the first connects
                    await self._within(budget_s, lambda: self.client.ping())
            except Exception as error:  # noqa: BLE001 - as above
                self._log_down(error)
                await asyncio.sleep(_PAUSE_S)
            else:
                self.reachable, self._failures = True, 0
        self._pings = None
        if self._down:
            self._down = False
            logger.info("%s: Redis answers again", self._purpose)

    def _log_down(self, error: Exception) -> None:
        if not self._down:
            self._down = True
            logger.warning("%s: Redis does not answer (%s); going on without it", self._purpose, _sentence(error))

    async def _within(self, seconds: float, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Wait for a call so long at most; after that, leave it to its own timeout.

        Not with `asyncio.timeout`: while redis-py 8.1 connects to a paused server, it may lose the cancellation.
        """

        async def in_slot() -> _Answer:
            async with self.slots:
                return await call()

        task = asyncio.create_task(in_slot())
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
            task.exception()  # nobody may wait for it any more: else asyncio would log it


class RedisStore:
    """Keeps entries in Redis. Its calls for lists never raise: without Redis nothing is known, and nothing is kept.

    A value is a check of 8 bytes and the entry: 16 bytes for a document in one window. The check is keyed with the
    secret and covers the key, so foreign bytes, or those of another key, are a miss.
    """

    def __init__(self, link: RedisLink, config: RedisConfig, secret: bytes = b"") -> None:
        self._link, self._config = link, config
        self._check = blake2b(digest_size=_CHECK_BYTES, key=secret, person=b"reranker-value")
        self._errors = self._wrong_values = 0
        self._writable, self._write_again_s = True, 0.0
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def statistics(self) -> Statistics:
        state = {"reachable": self._link.reachable, "writable": self._writable}
        return state | {"errors": self._errors, "wrong_values": self._wrong_values}

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Look up keys of one list, in one round trip; None for one that is not known."""
        entries = None
        if await self._link.usable():
            with metrics.REDIS_SECONDS.time():
                entries = await self._link.ask(lambda: self._read(keys))
            if entries is None:
                self._count_error()
        else:
            metrics.REDIS_SKIPPED.inc()
        return [None] * len(keys) if entries is None else entries

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Write entries of one list in the background, in one round trip."""
        if not self._link.reachable or len(self._writes) >= _MAX_WRITES or time.monotonic() < self._write_again_s:
            metrics.REDIS_SKIPPED.inc()
            return
        task = asyncio.create_task(self._write(entries))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def clear(self) -> None:
        """Delete every score under our prefix; CacheUnavailableError if that fails, or only a part is deleted."""
        await self.written()
        pipeline = self._link.client.pipeline(transaction=False)
        try:
            async for name in self._link.client.scan_iter(match=f"{self._config.prefix}:{{*", count=_CLEAR_KEYS):
                # One by one, as a cluster has them in many slots; a cluster's `unlink` does not queue.
                pipeline.execute_command("UNLINK", name)
                if len(pipeline) >= _CLEAR_KEYS:
                    await pipeline.execute()
            await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("score cache: Redis could not be cleared (%s)", _sentence(error))
            raise CacheUnavailableError from None

    async def written(self) -> None:
        await asyncio.gather(*self._writes)

    async def aclose(self) -> None:
        await self.written()
        await self._link.aclose()

    async def _read(self, keys: Sequence[bytes]) -> list[Entry | None]:
        values = await self._link.client.mget([self._name(key) for key in keys])
        return [self._entry(key, value) for key, value in zip(keys, values, strict=True)]

    async def _write(self, entries: Mapping[bytes, Entry]) -> None:
        try:
            async with self._link.slots:
                pipeline = self._link.client.pipeline(transaction=False)
                for key, entry in entries.items():
                    pipeline.set(self._name(key), self._digest(key, entry) + entry, ex=self._config.ttl_s)
                await pipeline.execute()
        except Exception as error:  # noqa: BLE001 - whatever Redis or its client does
            self._count_error()
            self._write_again_s = time.monotonic() + _PAUSE_S
            if self._writable:
                self._writable = False
                logger.warning("score cache: Redis takes no new scores (%s); going on without", _sentence(error))
            return
        if not self._writable:
            self._writable = True
            logger.info("score cache: Redis takes new scores again")

    def _count_error(self) -> None:
        self._errors += 1
        metrics.REDIS_ERRORS.inc()

    def _name(self, key: bytes) -> bytes:
        # The part in braces decides on the node of a cluster: all pairs of a list are on one, in a single round trip.
        return f"{self._config.prefix}:{{{key[:LIST_BYTES].hex()}}}".encode() + key[LIST_BYTES:]

    def _entry(self, key: bytes, value: Any) -> Entry | None:  # Any: with our settings it is bytes
        if value is None:
            return None
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


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
