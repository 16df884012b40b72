"""What a stepped engine steps: the seam between turns and threads (stepping.py) and what computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from reranker.types import BackendStats


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
