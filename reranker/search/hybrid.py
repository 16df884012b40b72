"""Two first stages as one, by reciprocal rank fusion: each chunk gets 1 / (60 + rank) from every stage that found it.

Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods, SIGIR 2009; the constant is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reranker.search.base import Candidate, FirstStage
from reranker.search.filters import Filter

_CONSTANT = 60


class Hybrid:
    """See `reranker.search.base.FirstStage`. Its scores are sums of reciprocal ranks."""

    name = "hybrid"

    def __init__(self, *stages: FirstStage) -> None:
        """Fuse these."""
        self._stages = stages

    async def search(self, query: str, count: int, wanted: Filter | None = None) -> list[Candidate]:
        """Ask all stages at once, each for so many candidates, and fuse what they find."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(stage.search(query, count, wanted)) for stage in self._stages]
        except ExceptionGroup as failures:  # both may fail; the client hears of the first
            raise failures.exceptions[0] from None
        return fuse([one.result() for one in asked])[:count]


def fuse(rankings: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """Fuse rankings; equal sums in the order of the first ranking that has them."""
    chunks = {(one.chunk.id, one.chunk.number): one.chunk for ranking in rankings for one in ranking}
    sums = dict.fromkeys(chunks, 0.0)
    for ranking in rankings:
        for rank, one in enumerate(ranking, start=1):
            sums[one.chunk.id, one.chunk.number] += 1 / (_CONSTANT + rank)
    return [Candidate(chunks[key], sums[key]) for key in sorted(sums, key=lambda key: -sums[key])]
