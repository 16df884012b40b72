"""An ingress's connections to all replicas: who is live, and what becomes of shards when one ends or is cut off."""

from __future__ import annotations

import asyncio
import gc

import pytest

from deployments.fleet import EngineReplicas
from reranker.errors import ReplicaLostError
from reranker.ranking.scatter import HandOverError
from reranker.types import ServedModel, ShardTerms
from tests.unit.shard_replicas import MODEL, Replica, replica, until
from tests.unit.steppers import shard

__all__ = ["replica"]


async def test_draining_replica_says_so_answers_what_it_has_and_then_hangs_up() -> None:
    replica = Replica()
    replicas = EngineReplicas()
    replicas.update({"a": replica.address}, {})
    await replicas.ready()
    replica.gate.clear()
    waiting = asyncio.ensure_future(replicas.connections.score("a", shard(1, 2), ShardTerms()))
    await until(lambda: replica.begun)
    draining = asyncio.ensure_future(replica.server.drain())
    await until(lambda: not replicas.placement.live_replicas)
    await asyncio.sleep(0.3)
    assert not draining.done()
    with pytest.raises(ReplicaLostError):
        await replicas.connections.score("a", shard(1, 2), ShardTerms())
    replica.gate.set()
    assert len((await waiting).scores.logits) == 2
    await draining
    replicas.update({}, {})


async def test_replica_that_serve_takes_out_finishes_what_it_has_and_is_left(replica: Replica) -> None:
    replicas = EngineReplicas()
    replicas.update({"a": replica.address}, {})
    await replicas.ready()
    replica.gate.clear()
    waiting = asyncio.ensure_future(replicas.connections.score("a", shard(1, 2), ShardTerms()))
    await until(lambda: replica.begun)
    replicas.update({}, {})
    assert replicas.placement.live_replicas == 0
    replica.gate.set()
    assert len((await waiting).scores.logits) == 2
    await until(lambda: not replica.server.connections)


async def test_replica_is_live_only_while_it_is_connected_and_gets_a_new_connection() -> None:
    """As when the network breaks for a moment: Serve says all the while that the replica runs."""
    replica = Replica()
    replicas = EngineReplicas()
    replicas.update({"a": replica.address}, {})
    await replicas.ready()
    assert replicas.placement.live_replicas == 1
    assert replicas.placement.model == MODEL
    replica.gate.clear()
    waiting = asyncio.ensure_future(replicas.connections.score("a", shard(1, 2), ShardTerms()))
    await until(lambda: replica.begun)
    for connection in list(replica.server.connections):
        connection.transport.close()
    with pytest.raises(ReplicaLostError):
        await waiting
    replica.gate.set()
    await until(lambda: replicas.placement.live_replicas)
    assert len((await replicas.connections.score("a", shard(1, 2), ShardTerms())).scores.logits) == 2
    await replica.server.drain()
    await until(lambda: not replicas.placement.live_replicas)
    replicas.update({}, {})


async def test_replica_that_cannot_be_reached_is_waited_for_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reranker.transport.client._LONGEST_PAUSE_S", 0.1)
    replica = Replica()
    await replica.server.drain()
    replicas = EngineReplicas()
    replicas.update({"far": replica.address}, {})
    waiting = asyncio.ensure_future(replicas.ready())
    await until(lambda: "far cannot be reached at 127.0.0.1" in caplog.text)
    assert replica.address.secret not in caplog.text
    assert not waiting.done()
    waiting.cancel()
    replicas.update({}, {})


async def test_replica_of_another_model_is_waited_past_and_the_log_says_so(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    replicas = EngineReplicas()
    replicas.placement.own = ServedModel("", "our name", "our lists", "our settings")
    replicas.update({"a": replica.address}, {})
    waiting = asyncio.ensure_future(replicas.ready())
    await until(lambda: "1 of 1 engine replicas hold another model" in caplog.text)
    assert not waiting.done()
    own = Replica(ServedModel("weights", "our name", "our lists", "our settings"))
    replicas.update({"a": replica.address, "b": own.address}, {})
    await waiting
    assert (replicas.placement.live_replicas, replicas.placement.model) == (1, own.address.model)
    replicas.update({}, {})
    await own.server.drain()


async def test_who_leaves_waits_for_no_replica_any_more(replica: Replica) -> None:
    """Those that start now hold what our successors' lists are scored with; ours are handed over to these."""
    replicas = EngineReplicas()
    waiting = asyncio.ensure_future(replicas.ready())
    await asyncio.sleep(0)
    replicas.leave()
    for wait in (waiting, replicas.ready()):
        with pytest.raises(HandOverError):
            await wait
    replicas.update({"a": replica.address}, {})
    await until(lambda: replicas.placement.live_replicas)
    await replicas.ready()
    replicas.update({}, {})


async def test_nothing_is_left_running(replica: Replica) -> None:
    replicas = EngineReplicas()
    replicas.update({"a": replica.address}, {})
    await replicas.ready()
    await replicas.connections.score("a", shard(1, 2), ShardTerms())
    replicas.update({}, {})
    await until(lambda: not replica.server.connections)
    await asyncio.sleep(0)
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}
