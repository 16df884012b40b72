"""Every kind of address that the configuration accepts reaches a real server of that kind."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.http.quotas import Quotas
from reranker.cache.redis import PASSWORD_VARIABLE
from reranker.config import RedisConfig
from reranker.errors import QuotaExceededError
from reranker.types import Caller
from tests.programs import certificate
from tests.redis.conftest import ENTRIES, KEYS, fill, store_on
from tests.redis_server import RedisServer

PASSWORD = "a password"  # noqa: S105


async def _works(url: str, password: str | None = None, **settings: Any) -> None:
    environment = {} if password is None else {PASSWORD_VARIABLE: password}
    async with store_on(url, password=password, **settings) as store:
        async with asyncio.timeout(20):
            while not store.statistics["reachable"]:
                await store.get_many(KEYS)
                await asyncio.sleep(0.02)
        await fill(store)
        assert await store.get_many(KEYS) == list(ENTRIES.values())
        await store.clear()
        assert await store.get_many(KEYS) == [None] * len(KEYS)
        assert store.statistics["errors"] == 0
    one, other = (Quotas.of(RedisConfig(url=url, budget_s=1, **settings), environment) for _ in range(2))
    caller = Caller("a", max_in_flight=1, tokens_per_minute=100)
    async with one.request(caller):
        with pytest.raises(QuotaExceededError):
            await other.request(caller).__aenter__()
        one.spend(caller, 10)
    await one.aclose()
    async with other.request(caller):
        pass
    await other.aclose()


async def test_password_and_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, "--user", "ranker", "on", f">{PASSWORD}", "~*", "+@all") as server:
        url = f"redis://ranker@127.0.0.1:{server.port}/1"
        await _works(url, PASSWORD)
        async with store_on(url, password="wrong") as store:
            await store.get_many(KEYS)
            assert store.statistics["reachable"] is False
    assert "does not answer" in caplog.text
    assert "wrong" not in caplog.text.replace("WRONGPASS", "")


async def test_password_alone(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", PASSWORD) as server:
        await _works(server.url, PASSWORD)


async def test_tls_with_our_own_certificate_authority(tmp_path: Path) -> None:
    signed, key = certificate(tmp_path)
    files = ("--tls-cert-file", str(signed), "--tls-key-file", str(key), "--tls-ca-cert-file", str(signed))
    with RedisServer(tmp_path, *files, tls_port=True) as server:
        url = f"rediss://127.0.0.1:{server.port}/0"
        await _works(url, ca_file=signed, cert_file=signed, key_file=key)
        async with store_on(url) as store:  # against the system's authorities: not to be trusted
            await store.get_many(KEYS)
            assert store.statistics["reachable"] is False


async def test_cluster(tmp_path: Path) -> None:
    """Of one node: it answers as a member of a cluster does, and refuses keys of several slots in one command."""
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        client = server.client()
        client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + 20
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        client.close()
        await _works(f"redis+cluster://127.0.0.1:{server.port},127.0.0.1:1")


async def test_sentinel_says_who_is_the_master(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as master:
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        with RedisServer(tmp_path, first=(str(config), "--sentinel")) as sentinel:
            await _works(f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:1/mymaster/0")
