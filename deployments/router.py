"""Which replica gets which shard: a Ray Serve RequestRouter over the load board.

Ray's default draws two replicas at random for each shard, and the shards of one list then land on the same replica
more often than not. Ours asks the board: the shards of one list on different replicas, the least loaded first.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from deployments.boards import board_of
from reranker.placement import LoadBoard
from reranker.types import ReplicaLoad, ShardTerms

_NO_ASSIGNMENT = 0


class ShardRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Gives each shard the replica that the board chooses; a full or dead one is passed over."""

    @property
    def _board(self) -> LoadBoard:
        return board_of(self._deployment_id.name)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Give the best of the candidates that have room, booked for the request; nothing if all are full."""
        free = {one.replica_id.unique_id: one for one in self.select_available_replicas(candidate_replicas)}
        arguments = pending_request.args if pending_request is not None else ()
        number = next((one.assignment for one in arguments if isinstance(one, ShardTerms)), _NO_ASSIGNMENT)
        return [[free[self._board.choose(number, free)]]] if free else []

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """Wait for a replica with room.

        Overridden, as Ray's own CapacityQueueRouter does, because the inherited one finds the request that a replica
        is for by the id of the HTTP request: of several shards of one list, all but one would wait for ever. Between
        looking at the loads and booking a replica nothing else runs, so shards routed together are spread, too.
        """
        attempt = 0
        while True:
            if not self.curr_replicas:
                self._replicas_updated_event.clear()
                await self._replicas_updated_event.wait()
            candidates = list(self.curr_replicas.values())
            ranks = await self.choose_replicas(candidates, pending_request)
            if ranks:
                return ranks[0][0]
            # All are full, some of them perhaps with what other ingress replicas sent: wait, and ask again.
            await self._backoff(attempt)
            await self._probe_queue_lens(candidates, attempt)
            attempt += 1

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Take over the set of running replicas and their loads, pushed by Serve's controller."""
        super().update_replicas(replicas)
        self._board.set_live(replica.replica_id.unique_id for replica in replicas)
        for replica in replicas:
            if replica.routing_stats:
                self._board.hear(replica.replica_id.unique_id, ReplicaLoad(**replica.routing_stats))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Take a dead replica out at once; the controller's word of it comes later."""
        super().on_replica_actor_died(replica_id)
        self._board.lose(replica_id.unique_id)
