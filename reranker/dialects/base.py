"""What a dialect is, and what one request becomes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from reranker.dialects.envelope import Problem
from reranker.dialects.options import Options
from reranker.record import Timeline
from reranker.search.base import Retrieved
from reranker.types import Ranking, RankRequest

JSON: TypeAlias = Any  # what a JSON encoder takes; every type by its nature


@dataclass(frozen=True, slots=True)
class Served:
    """What every answer says besides the ranking."""

    request_id: str
    model: str
    created_s: int
    """Unix time."""
    timeline: Timeline = field(default_factory=Timeline)
    """What happened so far, for those who ask for `timings`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read: the lists to rank, and what its answer depends on."""

    dialect: Dialect
    body: Any
    """Of `dialect.body`'s type: only the dialect itself looks into it."""
    lists: tuple[RankRequest, ...]
    """One; several only where a dialect scores pairs with different queries."""
    ignored: tuple[str, ...] = ()
    """Fields that were sent, that we know, and that we do not obey."""
    retrieved: Retrieved | None = None
    """Of a search: the documents that were found for it."""

    @property
    def to_rank(self) -> bool:
        """Whether anything is: not in a search that found nothing, or wants the candidates as they are."""
        return self.retrieved is None or bool(self.retrieved.candidates and self.body.rerank is not False)

    def write(self, rankings: Sequence[Ranking], served: Served) -> JSON:
        """Write the answer, given the ranking of each list."""
        return self.dialect.write(self, rankings, served)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of asking for a ranking and of answering."""

    name: str
    body: type[Options]
    """The model of its request's body."""
    read: Callable[[Any], tuple[RankRequest, ...]]
    """From a body of that model; raises InvalidRequestError."""
    write: Callable[[Asked, Sequence[Ranking], Served], JSON]
    error: Callable[[Problem], JSON]
    examples: Mapping[str, Mapping[str, JSON]]
    """Bodies by what they show; for the OpenAPI page, and each works when pasted."""
