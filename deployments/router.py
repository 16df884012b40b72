"""Tells this process which engine replicas there are: a Ray Serve RequestRouter that routes hardly anything itself.

Placement chooses the replica of each shard, and `fleet.py` sends it. Ray's default draws two replicas at random for
each shard, and the shards of one list then land on the same replica more often than not. A module of its own: Ray
pickles it by value, so a variable here would exist twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.fleet import replicas_of
from reranker.transport.address import ReplicaAddress
from reranker.types import ReplicaLoad


class ShardRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Learns from Serve's controller which replicas there are, where they listen, and how loaded they are."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Any replica will do for what comes here: the call that makes a handle learn of its replicas."""
        return [candidate_replicas]

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Take over the set of running replicas and their loads, pushed by Serve's controller."""
        super().update_replicas(replicas)
        addresses = {one.replica_id.unique_id: ReplicaAddress.from_metadata(one.replica_metadata) for one in replicas}
        replicas_of(self._deployment_id.name).update(
            {name: address for name, address in addresses.items() if address is not None},
            {one.replica_id.unique_id: ReplicaLoad(**one.routing_stats) for one in replicas if one.routing_stats},
        )
