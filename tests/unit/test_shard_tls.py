"""Shards are encrypted where Ray's own connections are, with the same certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from reranker.errors import ConfigurationError, ReplicaLostError
from reranker.transport.address import tls_context
from reranker.transport.client import ShardConnection
from reranker.transport.server import ShardServer
from reranker.types import Shard, ShardScores, ShardTerms
from tests.programs import certificate
from tests.unit.shard_replicas import MODEL, lengths
from tests.unit.steppers import shard


@pytest.fixture
def ray_tls(tmp_path: Path) -> dict[str, str]:
    """Ray's variables, with a certificate that has signed itself."""
    signed, key = certificate(tmp_path)
    names = {"SERVER_CERT": signed, "SERVER_KEY": key, "CA_CERT": signed}
    return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{name}": str(path) for name, path in names.items()}


async def test_shards_are_encrypted_where_ray_is_and_both_sides_show_a_certificate(ray_tls: dict[str, str]) -> None:
    async def score(one: Shard, terms: ShardTerms) -> ShardScores:
        return ShardScores(lengths(one), "replica")

    encrypted = ShardServer("127.0.0.1", MODEL, score, tls_context(ray_tls, server=True))
    connection = await ShardConnection.open(encrypted.address, tls_context(ray_tls, server=False))
    assert len((await connection.score(shard(1, 2), ShardTerms())).scores.logits) == 2
    connection.transport.abort()
    without = ssl.create_default_context(cafile=ray_tls["RAY_TLS_CA_CERT"])
    without.check_hostname = False
    for other in (None, without):
        with pytest.raises((ReplicaLostError, OSError)):
            await ShardConnection.open(encrypted.address, other)
    await encrypted.drain()


@pytest.mark.parametrize("missing", ["RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"])
def test_certificate_that_is_not_there_is_named(ray_tls: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigurationError, match="TLS"):
        tls_context(ray_tls | {missing: "/nowhere"}, server=True)
    del ray_tls[missing]
    with pytest.raises(ConfigurationError, match=missing):
        tls_context(ray_tls, server=True)
    assert tls_context({**ray_tls, "RAY_USE_TLS": "0"}, server=True) is None
