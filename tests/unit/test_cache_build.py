"""The cache is what the configuration says, and its secrets are in no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis, RedisCluster

from reranker.cache.redis import redis_client
from reranker.cache.score_cache import ScoreCache
from reranker.config import RedisConfig, RerankerConfig
from reranker.errors import ConfigurationError


def _build(cache: dict[str, Any], environment: dict[str, str] | None = None, **groups: Any) -> Any:
    config = RerankerConfig.model_validate({"cache": cache, **groups})
    return ScoreCache.of(config, environment or {})


def test_cache_is_on_in_memory_unless_engines_are_simulated() -> None:
    cache = _build({})
    assert set(cache.statistics) == {"hits", "misses", "coalesced", "memory"}
    assert cache.statistics["memory"]["max_bytes"] == 128 * 2**20
    assert _build({}, engine={"simulated": {}}) is None
    assert _build({"enabled": True}, engine={"simulated": {}}) is not None
    assert _build({"enabled": False}) is None
    assert _build({"memory_mib": 0}) is None


def test_no_redis_can_be_said() -> None:
    assert "redis" not in _build({"redis": {"url": None}}).statistics


def test_redis_is_used_with_and_without_memory() -> None:
    redis = {"url": "redis://127.0.0.1:1"}
    assert {"memory", "redis"} <= set(_build({"redis": redis}).statistics)
    assert "memory" not in _build({"redis": redis, "memory_mib": 0}).statistics


async def test_secrets_come_from_files_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from the file\n")
    url = {"url": "redis://127.0.0.1:1"}
    environment = {"RERANKER_REDIS_PASSWORD": "from the environment", "RERANKER_CACHE_SECRET": "secret"}
    for redis, password in (
        (url, "from the environment"),
        (url | {"password_file": str(tmp_path / "password")}, "from the file"),
    ):
        cache = _build({"redis": redis}, environment)
        assert cache._shared._link.client.connection_pool.connection_kwargs["password"] == password
        assert cache._secret == b"secret"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_secret_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """Without it, everything would be hashed with no secret, and nobody would know."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cache\.secret_file"):
        _build({"secret_file": str(file)})


def test_secret_that_is_too_long_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="65 bytes; at most 64"):
        _build({}, {"RERANKER_CACHE_SECRET": "x" * 65})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host", "must begin with redis://"),
        ("redis://user:secret@host", "must hold no password"),
        ("redis://:secret@host", "must hold no password"),
        ("redis+sentinel://host:26379", "must name Sentinel's master"),
        ("redis://host:port", "an address"),
        ("redis://one,two", "one address"),
        ("redis://host/database", "a number"),
        ("redis+sentinel://host/master/database", "a number"),
        ("redis+cluster://host/1", "no databases"),
        ("redis://", "one address"),
        ("redis+cluster://one,,two", "an address"),
        ("redis+cluster://one,user:secret@two", "must hold no password"),
        ("redis://user:sec/ret@host", "an address"),
        ("redis://host/0?password=secret", "no options"),
        ("redis://host:70000", "an address"),
    ],
)
def test_wrong_address_stops_the_start(url: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as error:
        RerankerConfig.model_validate({"cache": {"redis": {"url": url}}})
    assert "cache.redis.url" in str(error.value)
    assert "secret" not in str(error.value)
    assert "ret@" not in str(error.value)


def test_cache_without_a_place_stops_the_start() -> None:
    with pytest.raises(ValidationError, match="neither memory_mib nor"):
        RerankerConfig.model_validate({"cache": {"enabled": True, "memory_mib": 0}})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", {"host": "host", "port": 6379, "db": 0, "username": None}),
        ("redis://host:7/3", {"host": "host", "port": 7, "db": 3}),
        ("redis://a%40b@host", {"host": "host", "username": "a@b"}),
        ("redis://[::1]:7", {"host": "::1", "port": 7}),
        ("redis://[::1]", {"host": "::1", "port": 6379}),
        ("rediss://host", {"host": "host"}),
    ],
)
def test_address_is_read_as_people_write_it(url: str, expected: dict[str, Any]) -> None:
    client = redis_client(RedisConfig(url=url), None)
    assert isinstance(client, Redis)
    pool: Any = client.connection_pool
    connection = pool.make_connection()
    assert {name: getattr(connection, name) for name in expected} == expected
    assert type(connection).__name__ == ("SSLConnection" if url.startswith("rediss") else "Connection")


def test_cluster_and_sentinel_have_several_addresses() -> None:
    cluster = redis_client(RedisConfig(url="redis+cluster://a:1,b"), None)
    assert isinstance(cluster, RedisCluster)
    assert {(node.host, node.port) for node in cluster.nodes_manager.startup_nodes.values()} == {("a", 1), ("b", 6379)}
    sentinel = redis_client(RedisConfig(url="redis+sentinel://a,b:2/mymaster/5"), "password")
    assert isinstance(sentinel, Redis)
    pool: Any = sentinel.connection_pool
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("mymaster", 5)
    asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in asked] == [
        ("a", 26379, "password"),
        ("b", 2, "password"),
    ]
