"""Ray's default router, to compare ours with: it only tells the load board which replicas there are."""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import RunningReplica

from deployments.boards import board_of


class PowerOfTwo(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]  # Ray is untyped here
    """Two replicas drawn at random, the shorter queue taken."""

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Take over the set of running replicas; the ingress plans and answers /health by the board."""
        super().update_replicas(replicas)
        board_of(self._deployment_id.name).set_live(replica.replica_id.unique_id for replica in replicas)
