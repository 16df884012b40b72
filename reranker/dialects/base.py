"""What a dialect is, and what one request becomes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reranker.dialects.fields import Options
from reranker.errors import RerankerError
from reranker.record import RequestRecord
from reranker.types import Ranking, RankRequest

JSON: TypeAlias = Any  # what a JSON encoder takes; every type by its nature

TIMEOUT_HEADER = "X-Reranker-Timeout-S"
"""Seconds the client gives a list."""
IGNORED_HEADER = "X-Reranker-Ignored"
"""In an answer: the known fields of the request that could change the ranking and were not obeyed."""
UNSCORED_HEADER = "X-Reranker-Unscored"
"""In a partial answer: how many documents were not scored in time. Not every dialect has a place for it in its body."""
STAGES_HEADER = "X-Reranker-Stages"
"""In a cascade's answer: the models that ranked it, in every dialect."""
QUESTION = "What is the capital of China?"
TEXTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]
"""Of the dialects' examples."""


@dataclass(frozen=True, slots=True)
class RankingCall:
    """A request that was read: the lists to rank, and what its answer depends on."""

    dialect: Dialect
    body: Any
    """Of `dialect.body`'s type: only the dialect itself looks into it."""
    lists: tuple[RankRequest, ...]
    """One; several only where a dialect scores pairs with different queries."""
    ignored: tuple[str, ...] = ()
    """For `IGNORED_HEADER`."""

    def write(self, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> JSON:
        """`rankings` are the lists', `model` is its name, `record` has what happened so far."""
        return self.dialect.write(self, rankings, model, record)


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
    chosen_as: type = object
    """What such a field must be for that."""
    unfold: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    """Gives the fields of a body that has them in objects within it."""
    shares_paths: bool = True
    """Whether it is spoken on the shared paths at all."""
    complete: bool = False
    """Every document is in its answers, whatever rules, threshold or `top_n` say: its readers count on it."""
    body: type[Options]
    lists: tuple[str, ...]
    """Fields of the body that hold one entry for each document, or could hold as many."""
    read: Callable[[Any], tuple[RankRequest, ...]]
    """Takes a `body`; raises InvalidRequestError."""
    answer: Any
    """The type of what `write` gives: the OpenAPI page is made of it. (Any: a TypedDict, or a list of one.)"""
    write: Callable[[RankingCall, Sequence[Ranking], str, RequestRecord], JSON]
    error: Callable[[RerankerError], JSON]
    examples: Mapping[str, Mapping[str, JSON]]
    """Bodies by what they show; for the OpenAPI page, and each works when pasted."""
