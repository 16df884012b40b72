"""The seam between the service and whatever computes scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from reranker.engine.metrics import BackendStats, EngineStats
from reranker.types import EngineScores, FloatArray, ReplicaLoad, Shard


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

    async def score_within(self, shard: Shard, weight: float, timeout_s: float | None) -> EngineScores:
        """Score the pairs of a shard that time suffices for; the rest leaves the engine.

        Args:
            shard: The pairs.
            weight: Share of the engine against the other shards in it.
            timeout_s: Seconds until the answer is due. None: when all pairs are scored.

        Raises:
            EngineFailedError: The engine stopped working, now or before.
        """
        ...

    @property
    def healthy(self) -> bool:
        """False once the engine can no longer score; it does not recover."""
        ...

    @property
    def load(self) -> ReplicaLoad:
        """What waits here, and how fast it goes away."""
        ...

    @property
    def stats(self) -> EngineStats:
        """What it has done since its start, for metrics; may be a step behind."""
        ...

    async def check_integrity(self) -> None:
        """Compare the engine's books with each other; cheap.

        Raises:
            RuntimeError: Something was left behind. This is a bug.
        """
        ...

    def shutdown(self) -> None:
        """Stop the engine; what waits fails with EngineFailedError."""
        ...


class Stepper(Protocol):
    """Computes pairs in steps. Made, called and closed on one thread."""

    max_batch_tokens: int
    """Tokens one step computes."""
    max_batch_pairs: int
    """Pairs one step computes."""

    def add(self, pair: int, prompt: list[int], head_tokens: int, priority: int, adapter: str = "") -> None:
        """Take in a pair.

        Args:
            pair: Its number.
            prompt: Its tokens.
            head_tokens: How many of them are the list's head.
            priority: Lower goes first.
            adapter: Name of the adapter that scores it; empty: none.
        """
        ...

    def step(self) -> Iterable[tuple[int, float]]:
        """Compute a batch; give the number and logit of each pair that is done."""
        ...

    def abort(self, pairs: Sequence[int]) -> None:
        """Forget these pairs."""
        ...

    def stats(self) -> BackendStats:
        """Say what it has and has done; from any thread, and cheap."""
        ...

    def close(self) -> None:
        """Give back the device."""
        ...
