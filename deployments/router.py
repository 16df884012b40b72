"""Which replica gets which shard: a Ray Serve RequestRouter.

Round robin, because Ray's default draws two replicas at random for each shard, and the shards of one list then land on
the same replica more often than not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.experimental.round_robin_router import RoundRobinRouter

from deployments import live_replicas


class ShardRouter(RoundRobinRouter):  # type: ignore[misc]  # Ray is untyped here
    """Gives consecutive shards to different replicas."""

    def update_replicas(self, replicas: Sequence[object]) -> None:
        """Take over the set of running replicas, pushed by Serve's controller."""
        super().update_replicas(replicas)
        live_replicas.publish(self._deployment_id.name, len(replicas))
