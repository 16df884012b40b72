"""A client of what `cache.redis.url` names: one Redis, a cluster, or a master that Sentinel knows. Asks nothing yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reranker.config import RedisConfig

RedisClient: TypeAlias = Redis | RedisCluster
CONNECT_TIMEOUT_S = 2.0
"""Also of every call, which gives up far earlier where a list waits for it."""
MAX_CONNECTIONS = 32
_PORTS = {"sentinel": 26379}


def redis_client(config: RedisConfig, password: str | None) -> RedisClient:
    """Make a client.

    Args:
        config: With a URL.
        password: Of Redis, and of Sentinel.
    """
    scheme, _, rest = (config.url or "").partition("://")
    protocol, _, kind = scheme.partition("+")
    place, _, path = rest.partition("/")
    user, _, hosts = place.rpartition("@")
    addresses = _addresses(hosts, _PORTS.get(kind, 6379))
    parts = [part for part in path.split("/") if part]
    options: dict[str, Any] = {  # Any: redis-py's own arguments
        "username": unquote(user) or None,
        "password": password,
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
    }
    if protocol == "rediss":
        options |= {"ssl": True, "ssl_ca_certs": _text(config.ca_file)}
        options |= {"ssl_certfile": _text(config.cert_file), "ssl_keyfile": _text(config.key_file)}
    if kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in addresses]
        return RedisCluster(startup_nodes=nodes, max_connections=MAX_CONNECTIONS, **options)
    # Once more, at once: a connection of the pool may have been closed while nobody used it.
    options |= {"max_connections": MAX_CONNECTIONS, "retry": Retry(NoBackoff(), 1)}
    if kind == "sentinel":
        sentinel = Sentinel(addresses, sentinel_kwargs=options | {"username": None}, **options)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(parts[0], db=int(parts[1]) if len(parts) > 1 else 0)
        return master
    [(host, port)] = addresses
    return Redis(host=host, port=port, db=int(parts[0]) if parts else 0, **options)


def _addresses(hosts: str, port: int) -> Sequence[tuple[str, int]]:
    found = []
    for one in hosts.split(","):
        host, colon, given = one.rpartition(":")
        is_port = bool(colon) and given.isdigit()  # "[::1]" has colons and no port
        found.append(((host if is_port else one).strip("[]"), int(given) if is_port else port))
    return found


def _text(path: object) -> str | None:
    return None if path is None else str(path)
