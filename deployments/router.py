"""Keeps links and load board in step with Serve: a Ray Serve RequestRouter that routes hardly anything itself.

Which replica gets a shard, the board says, and `fleet.py` sends it. Ray's default draws two replicas at random for each
shard, and the shards of one list then land on the same replica more often than not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.fleet import links_of
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
        links = links_of(self._deployment_id.name)
        addresses = {one.replica_id.unique_id: ReplicaAddress.of_metadata(one.replica_metadata) for one in replicas}
        links.update({name: address for name, address in addresses.items() if address is not None})
        for replica in replicas:
            if replica.routing_stats:
                links.board.hear(replica.replica_id.unique_id, ReplicaLoad(**replica.routing_stats))
