"""Keeps the load board in step with Serve: a Ray Serve RequestRouter that routes hardly anything itself.

Which replica gets a shard, the board says, and `fleet.py` calls it. Ray's default draws two replicas at random for each
shard, and the shards of one list then land on the same replica more often than not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments.boards import Replicas, replicas_of
from reranker.types import ReplicaLoad


class ShardRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Learns from Serve's controller which replicas there are and how loaded they are."""

    @property
    def _known(self) -> Replicas:
        return replicas_of(self._deployment_id.name)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Any replica will do for what comes here: the call that makes a handle learn of its replicas."""
        return [candidate_replicas]

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Take over the set of running replicas and their loads, pushed by Serve's controller."""
        super().update_replicas(replicas)
        known = self._known
        known.update({replica.replica_id.unique_id: replica for replica in replicas})
        for replica in replicas:
            if replica.routing_stats:
                stats = dict(replica.routing_stats)
                known.board.identify(replica.replica_id.unique_id, stats.pop("model"))
                known.board.hear(replica.replica_id.unique_id, ReplicaLoad(**stats))
