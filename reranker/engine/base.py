"""The seam between the service and whatever computes scores."""

from __future__ import annotations

from typing import Protocol

from reranker.types import FloatArray, Shard


class Engine(Protocol):
    """Holds one model on one device and scores shards."""

    async def score(self, shard: Shard) -> FloatArray:
        """Score all pairs of a shard; one call, one answer.

        Cancelling the call takes the shard's waiting pairs out of the engine.

        Returns:
            Shape (pairs,), float32, in the shard's order: logit("yes") - logit("no").

        Raises:
            EngineFailedError: The engine stopped working, now or before.
        """
        ...

    @property
    def healthy(self) -> bool:
        """False once the engine can no longer score; it does not recover."""
        ...

    def shutdown(self) -> None:
        """Stop the engine; what waits fails with EngineFailedError."""
        ...
