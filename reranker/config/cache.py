"""Settings of the score cache: what is remembered, where, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from reranker.config.base import Group
from reranker.config.redis_address import RedisAddress


class RedisConfig(Group):
    """A Redis that all ingress replicas share. Its passwords come from the environment or a file, never from here."""

    url: str | None = None
    """redis://host:6379/0; rediss:// for TLS; redis+cluster://host:6379,host:6379 for a cluster;
    redis+sentinel://host:26379,host:26379/mymaster/0 for Sentinel. A user name may stand before the host ("name@").
    None: no Redis."""
    password_file: Path | None = None
    """A file with the password. None: the variable RERANKER_REDIS_PASSWORD of the ingress's environment, if it is
    set."""
    ca_file: Path | None = None
    """Certificates that a TLS server's is checked against. None: the system's."""
    cert_file: Path | None = None
    """Our own certificate, for a server that asks for one."""
    key_file: Path | None = None
    """Its private key."""
    prefix: str = Field(default="reranker", min_length=1, pattern=r"^[\w:.-]+$")
    """What all keys begin with."""
    ttl_s: PositiveInt = 7 * 24 * 3600
    """Seconds after which Redis forgets a score that was not written again. Scores do not age; this frees memory."""
    budget_s: PositiveFloat = 0.05
    """Seconds a list waits for Redis, at most; then it goes on without."""

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: str | None) -> str | None:
        if url is not None:
            RedisAddress.read(url)
        return url


class CacheConfig(Group):
    """Scores that were computed before. What makes two of them the same: docs/cache.md."""

    enabled: bool | None = None
    """None: on, unless the engines are simulated (a load test is to reach them)."""
    memory_mib: NonNegativeInt = 128
    """Memory of each ingress replica for scores; about 3,000 of them fit one MiB. 0: none."""
    redis: RedisConfig = RedisConfig()
    namespace: Literal["shared", "api_key"] = "shared"
    """"shared": whoever asks. "api_key": a client finds only what was scored for the same API key."""
    secret_file: Path | None = None
    """A file with a secret that the hashes are keyed with, so that whoever reads Redis cannot test whether a document
    was ranked. The same for all ingress replicas. None: the variable RERANKER_CACHE_SECRET of their environment, if it
    is set."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.enabled and not self.memory_mib and self.redis.url is None:
            raise ValueError("enabled, but neither memory_mib nor redis.url gives it a place")
        return self
