"""What an answer says about the documents that were sent: their ranks, and how they moved. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.ui.documents import Document, text_of


@dataclass(frozen=True, slots=True)
class Row:
    """One document of a ranking."""

    rank: int
    """From 1."""
    index: int
    """Position in the input, from 0."""
    score: float
    text: str
    moved: int | None
    """Ranks up (positive) or down, against what it is compared with; None: it was not there."""
    marks: tuple[str, ...] = ()
    """What happened to it, in words."""
    name: str = ""
    """Empty: its place in the input is its name."""


@dataclass(frozen=True, slots=True)
class Left:
    """A document that is not in the ranking."""

    index: int
    text: str
    why: str
    name: str = ""
    """Empty: its place in the input is its name."""


def rows(documents: Sequence[Document], answer: Mapping[str, Any], before: Sequence[int] | None = None) -> list[Row]:
    """Give the ranking, best first.

    Args:
        documents: What was sent.
        answer: The service's.
        before: Indices of another ranking, best first, to compare with. None: the input order.
    """
    order = range(len(documents)) if before is None else before
    rank_before = {index: rank for rank, index in enumerate(order, start=1)}
    found = []
    for rank, result in enumerate(answer["results"], start=1):
        index = result["index"]
        old = rank_before.get(index)
        moved = None if old is None else old - rank
        found.append(
            Row(rank, index, result["relevance_score"], text_of(documents[index]), moved, tuple(_marks(result)))
        )
    return found


def left_out(documents: Sequence[Document], answer: Mapping[str, Any], top_n: int | None) -> list[Left]:
    """Give the documents that are not in it, and why, in input order."""
    ranked = {result["index"] for result in answer["results"]}
    why = {one["index"]: "not scored in time" for one in answer.get("unscored", ())}
    for one in answer.get("excluded", ()):
        rule = str(one.get("rule", ""))
        why[one["index"]] = "below the threshold" if "threshold" in rule else f"excluded by the rule {rule}"
    below = f"not among the best {top_n}" if top_n else "not returned"
    return [
        Left(index, text_of(document), why.get(index, below))
        for index, document in enumerate(documents)
        if index not in ranked
    ]


def _marks(result: Mapping[str, Any]) -> list[str]:
    marks = ["cut: too long for the model"] if result.get("truncated") else []
    return [*marks, f"scored in {result['windows']} windows"] if result.get("windows") else marks


def difference(first: Sequence[Row], second: Sequence[Row]) -> str:
    """Say in a sentence or two how the second ranking differs from the first."""
    if [row.index for row in first] == [row.index for row in second]:
        return "Both give the same order."
    moves = [row for row in second if row.moved]
    said = f"{len(moves)} of {len(second)} documents have another rank."
    if first and second and first[0].index == second[0].index:
        said += " The best one is the same."
    if moves:
        most = max(moves, key=lambda row: abs(row.moved or 0))
        rank = most.rank + (most.moved or 0)
        said += f" Document {most.index + 1} moves most: from rank {rank} to {most.rank}."
    return said
