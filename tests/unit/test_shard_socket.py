"""A replica's socket and an ingress's connection to it, over loopback: who gets in, and what goes through."""

from __future__ import annotations

import asyncio
import dataclasses

import orjson
import pytest

from reranker.errors import ConfigurationError, ReplicaLostError, ScoringError
from reranker.transport import frames, server
from reranker.transport.address import ReplicaAddress
from reranker.transport.client import ShardConnection
from reranker.transport.frames import Frame, FrameType
from reranker.types import ServedModel, ShardTerms
from tests.unit.shard_replicas import MODEL, Replica, replica, until
from tests.unit.steppers import shard

__all__ = ["replica"]


async def test_many_shards_at_a_time_get_each_its_own_scores(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    shards = [shard(number, number + 1, document_tokens=number) for number in range(20)]
    asked = [connection.score(one, ShardTerms(number, 2.0)) for number, one in enumerate(shards)]
    answers = await asyncio.gather(*asked)
    assert [one.scores.logits.tolist() for one in answers] == [[number] * (number + 1) for number in range(20)]
    assert (replica.server.shards_in_hand, connection.answers) == (0, {})
    connection.transport.abort()


async def test_shard_of_a_megabyte_arrives_whole(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    large = shard(1, 1_000, document_tokens=250)
    assert (await connection.score(large, ShardTerms(1))).scores.logits.tolist() == [250] * 1_000
    connection.transport.abort()


async def test_cancelled_shard_is_dropped_there_and_the_others_are_not(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    replica.gate.clear()
    kept, gone = (asyncio.ensure_future(connection.score(shard(1, 2), ShardTerms(number))) for number in (1, 2))
    await until(lambda: len(replica.begun) == 2)
    gone.cancel()
    await until(lambda: replica.dropped == [ShardTerms(2)])
    assert replica.server.shards_in_hand == 1
    replica.gate.set()
    assert len((await kept).scores.logits) == 2
    connection.transport.abort()


async def test_shard_cancelled_before_the_replica_has_looked_at_it_leaves_nothing(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    for number in range(50):
        gone = asyncio.ensure_future(connection.score(shard(1, 2), ShardTerms(number)))
        await asyncio.sleep(0)
        gone.cancel()
    await connection.score(shard(1, 2), ShardTerms(50))
    assert (replica.server.shards_in_hand, connection.answers) == (0, {})
    connection.transport.abort()


async def test_ingress_that_is_gone_leaves_no_work(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    replica.gate.clear()
    waiting = asyncio.ensure_future(connection.score(shard(1, 2), ShardTerms(1)))
    await until(lambda: replica.begun)
    connection.transport.abort()
    await until(lambda: replica.dropped)
    with pytest.raises(ReplicaLostError):
        await waiting
    with pytest.raises(ReplicaLostError):
        await connection.score(shard(1, 2), ShardTerms(2))


async def test_errors_keep_their_class_and_bugs_become_scoring_errors(replica: Replica) -> None:
    connection = await ShardConnection.open(replica.address)
    cases = [(ConfigurationError("a sentence"), ConfigurationError), (ZeroDivisionError(), ScoringError)]
    for number, (error, known) in enumerate(cases):
        replica.fails = error
        with pytest.raises(known):
            await connection.score(shard(1, 2), ShardTerms(number))
    connection.transport.abort()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1_000),
        bytes(Frame(FrameType.HELLO, header=orjson.dumps("0" * 64))),
        bytes(Frame(FrameType.HELLO, header=orjson.dumps({"secret": None}))),
        bytes(Frame(FrameType.HELLO, header=b"\xff")),
        bytes(Frame(FrameType.HELLO, header=b'"' + b"0" * 100_000 + b'"')),
        bytes(frames.pack_shard(1, shard(1, 2), ShardTerms(1))),
        bytes(Frame(FrameType.DROP, 1)),
    ],
    ids=["HTTP", "zeros", "wrong secret", "no string", "no JSON", "long secret", "shard", "drop"],
)
async def test_stranger_is_cut_off_and_costs_the_others_nothing(replica: Replica, said: bytes) -> None:
    known = await ShardConnection.open(replica.address)
    reader, writer = await asyncio.open_connection(replica.address.host, replica.address.port)
    writer.write(said)
    async with asyncio.timeout(5):
        assert await _rest(reader) == b""
    writer.close()
    assert replica.begun == []
    assert len((await known.score(shard(1, 2), ShardTerms(1))).scores.logits) == 2
    known.transport.abort()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:  # it was still sending
        return b""


async def test_strangers_that_say_nothing_are_few_and_do_not_stay(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HELLO_S", 0.2)
    monkeypatch.setattr(server, "_MAX_STRANGERS", 3)
    silent = [await asyncio.open_connection(replica.address.host, replica.address.port) for _ in range(8)]
    async with asyncio.timeout(5):
        assert [await _rest(reader) for reader, _ in silent] == [b""] * 8
    for _, writer in silent:
        writer.close()
    connection = await ShardConnection.open(replica.address)
    await asyncio.sleep(0.3)
    assert not connection.lost.is_set()
    connection.transport.abort()


async def test_ingress_gets_in_past_more_strangers_than_are_let_in(replica: Replica) -> None:
    """They say nothing, and stay for as long as they may; who knows the secret does not wait for one to go."""
    silent = [
        await asyncio.open_connection(replica.address.host, replica.address.port)
        for _ in range(2 * server._MAX_STRANGERS)
    ]
    async with asyncio.timeout(server._HELLO_S / 2):
        connection = await ShardConnection.open(replica.address)
    assert len((await connection.score(shard(1, 2), ShardTerms(1))).scores.logits) == 2
    assert sum(not one.known for one in replica.server.connections) <= server._MAX_STRANGERS
    connection.transport.abort()
    for _, writer in silent:
        writer.close()


async def test_known_peer_that_sends_nonsense_is_cut_off(replica: Replica) -> None:
    sent = frames.pack_shard(1, shard(1, 1), ShardTerms(1))
    for nonsense in (
        Frame(FrameType.WELCOME),
        Frame(FrameType.SHARD, 2, b"{}"),
        sent,
    ):  # the last: a number that is in use
        replica.gate.clear()
        connection = await ShardConnection.open(replica.address)
        connection.send(sent)
        connection.send(nonsense)
        await until(connection.lost.is_set)


async def test_wrong_secret_is_a_lost_replica(replica: Replica) -> None:
    stranger = dataclasses.replace(replica.address, secret="another")
    with pytest.raises(ReplicaLostError):
        await ShardConnection.open(stranger)
    assert "another" not in repr(stranger)


def test_address_survives_what_ray_carries_and_another_version_is_none() -> None:
    address = ReplicaAddress("127.0.0.1", 5, MODEL)
    metadata = address.to_metadata()
    assert ReplicaAddress.from_metadata(orjson.loads(orjson.dumps(metadata))) == address
    assert ReplicaAddress.from_metadata(metadata | {"version": 99}) is None
    of_older_release = {name: metadata[name] for name in ("host", "port", "model", "secret", "version")}
    assert ReplicaAddress.from_metadata(of_older_release) == dataclasses.replace(address, model=ServedModel("model"))
    assert ReplicaAddress.from_metadata({}) is None
