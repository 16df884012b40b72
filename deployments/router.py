"""A Ray Serve RequestRouter that tells this process which engine replicas there are, and routes hardly anything.

Placement chooses the replica of each shard, and `fleet.py` sends it. Ray's default draws two replicas at random for
each shard, and the shards of one list then often land on the same one. Ray pickles this module by value, so a variable
here would exist twice.
"""

from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.fleet import replicas_of
from reranker.transport.address import ReplicaAddress
from reranker.types import ReplicaLoad


class ShardRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Takes the replicas, their addresses and loads from Serve's controller."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Any replica will do for the one call that comes here: it makes the handle learn its replicas."""
        return [candidate_replicas]

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Called when Serve's controller pushes the running replicas and their loads."""
        super().update_replicas(replicas)
        by_name = {replica.replica_id.unique_id: replica for replica in replicas}
        addresses = {name: ReplicaAddress.from_metadata(one.replica_metadata) for name, one in by_name.items()}
        replicas_of(self._deployment_id.name).update(
            {name: address for name, address in addresses.items() if address is not None},
            {name: ReplicaLoad(**one.routing_stats) for name, one in by_name.items() if one.routing_stats},
        )
