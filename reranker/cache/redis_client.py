"""A client of what `cache.redis.url` names: one Redis, a cluster, or a master that Sentinel knows. Asks nothing yet."""

from __future__ import annotations

from typing import Any, TypeAlias

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from reranker.config import RedisAddress, RedisConfig

RedisClient: TypeAlias = Redis | RedisCluster
CONNECT_TIMEOUT_S = 2.0
"""Also of every call, which gives up far earlier where a list waits for it."""
MAX_CONNECTIONS = 32


def redis_client(config: RedisConfig, password: str | None) -> RedisClient:
    """Make a client.

    Args:
        config: With a URL.
        password: Of Redis, and of Sentinel.
    """
    address = RedisAddress.read(config.url or "")
    options: dict[str, Any] = {  # Any: redis-py's own arguments
        "username": address.username,
        "password": password,
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
        "max_connections": MAX_CONNECTIONS,
    }
    if address.tls:
        options |= {"ssl": True, "ssl_ca_certs": _text(config.ca_file)}
        options |= {"ssl_certfile": _text(config.cert_file), "ssl_keyfile": _text(config.key_file)}
    if address.kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in address.hosts], **options)
    # Once more, at once: a connection of the pool may have been closed while nobody used it.
    options["retry"] = Retry(NoBackoff(), 1)
    if address.kind == "sentinel":
        asked = options | {"username": None}
        sentinel = Sentinel(address.hosts, sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(address.master, db=address.database)
        return master
    [(host, port)] = address.hosts
    return Redis(host=host, port=port, db=address.database, **options)


async def disconnect(client: RedisClient) -> None:
    """Close every connection of a client."""
    pool = getattr(client, "connection_pool", None)  # a cluster's has one for each node
    await client.aclose()
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()  # its client closes the master's connections only


def _text(path: object) -> str | None:
    return None if path is None else str(path)
