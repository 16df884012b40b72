"""What a dialect is, and what one request becomes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from reranker.dialects.fields import Options
from reranker.errors import RerankerError
from reranker.record import RequestRecord
from reranker.types import Ranking, RankRequest

JSON: TypeAlias = Any  # what a JSON encoder takes; every type by its nature

TIMEOUT_HEADER = "X-Reranker-Timeout-S"
"""Seconds the client gives a list."""
IGNORED_HEADER = "X-Reranker-Ignored"
"""In an answer: the fields of the request that are known, could change the ranking, and were not obeyed."""


@dataclass(frozen=True, slots=True)
class Served:
    """What every answer says besides the ranking."""

    request_id: str
    model: str
    created_s: int
    """Unix time."""
    record: RequestRecord = field(default_factory=RequestRecord)
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

    def write(self, rankings: Sequence[Ranking], served: Served) -> JSON:
        """Write the answer, given the ranking of each list."""
        return self.dialect.write(self, rankings, served)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way of asking for a ranking and of answering."""

    name: str
    summary: str
    """Of its first path, for the OpenAPI page."""
    paths: tuple[str, ...] = ()
    """Paths of its own, besides those that several dialects share."""
    chosen_by: tuple[str, ...] = ()
    """On a shared path, a body with one of these fields is in this dialect."""
    shares_paths: bool = True
    """Whether it is spoken on the shared paths at all."""
    body: type[Options]
    """The model of its request's body."""
    lists: tuple[str, ...]
    """Fields that hold one entry for each document, or could hold as many."""
    read: Callable[[Any], tuple[RankRequest, ...]]
    """From a body of that model; raises InvalidRequestError."""
    answer: Any
    """The type of what `write` gives: the OpenAPI page is made of it. (Any: a TypedDict, or a list of one.)"""
    write: Callable[[Asked, Sequence[Ranking], Served], JSON]
    error: Callable[[RerankerError], JSON]
    examples: Mapping[str, Mapping[str, JSON]]
    """Bodies by what they show; for the OpenAPI page, and each works when pasted."""
