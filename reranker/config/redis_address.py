"""Read the address of a Redis, of a cluster, or of a master that Sentinel knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import unquote

_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a URL of a Redis says."""

    tls: bool
    kind: Literal["", "cluster", "sentinel"]
    hosts: tuple[tuple[str, int], ...]
    username: str | None
    master: str
    """The name that Sentinel knows it by; empty elsewhere."""
    database: int

    @classmethod
    def read(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            ValueError: It is none, or it holds a password. Never quotes that.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in _SCHEMES:
            raise ValueError(f"must begin with {'://, '.join(_SCHEMES)}://")
        protocol, _, kind = scheme.partition("+")
        place, _, path = rest.partition("/")
        user, _, hosts = place.rpartition("@")
        if ":" in user:
            raise ValueError("must hold no password: set RERANKER_REDIS_PASSWORD, or cache.redis.password_file")
        addresses = tuple(_address(one, _SENTINEL_PORT if kind == "sentinel" else _PORT) for one in hosts.split(","))
        if not kind and len(addresses) > 1:
            raise ValueError("must have one address; several are for redis+cluster:// and redis+sentinel://")
        parts = [part for part in path.split("/") if part]
        master = ""
        if kind == "sentinel":
            if not parts:
                raise ValueError(
                    "must name Sentinel's master after the addresses: redis+sentinel://host:26379/mymaster"
                )
            master = parts.pop(0)
        if kind == "cluster" and parts:
            raise ValueError("a cluster has no databases: nothing may come after its addresses")
        if parts and not (len(parts) == 1 and parts[0].isdecimal()):
            raise ValueError("what comes last must be the database, a number")
        database = int(parts[0]) if parts else 0
        # (mypy does not see that the schemes leave no other kind.)
        return cls(protocol == "rediss", kind, addresses, unquote(user) or None, master, database)  # type: ignore[arg-type]


def _address(written: str, port: int) -> tuple[str, int]:
    host, colon, given = written.rpartition(":")
    if not colon or written.endswith("]"):  # "[::1]" has colons and no port
        host, given = written, str(port)
    if not host or not given.isdecimal():
        raise ValueError("must have an address, as host or host:port")
    return host.strip("[]"), int(given)
