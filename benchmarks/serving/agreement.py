"""Whether two systems score the same pairs the same: asked before anything is measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.system import Server
from benchmarks.serving.texts import TextList, make_list

TOLERANCE = 1e-2
_LISTS = (("words", 20), ("real", 20))


@dataclass(frozen=True, slots=True)
class Sample:
    """A system's scores of the lists that all systems are asked for."""

    scores: list[float]
    prompt_tokens: int | None


def sample(server: Server) -> Sample:
    """Ask for them."""
    scores: list[float] = []
    tokens: int | None = 0
    for texts in sample_lists():
        found, said = server.scores(texts)
        scores += found
        tokens = None if tokens is None or said is None else tokens + said
    return Sample(scores, tokens)


def sample_lists() -> list[TextList]:
    """Two lists: random words, and real questions with passages."""
    return [make_list(kind, documents, "agreement") for kind, documents in _LISTS]  # type: ignore[arg-type]


def compare(reference: Sample, other: Sample) -> dict[str, Any]:  # Any: JSON
    """Compare two systems' scores.

    Random weights give scores that differ little between documents, so the difference between systems is told against
    that spread too; the number of prompt tokens must be the same where both count them.
    """
    differences = [abs(a - b) for a, b in zip(reference.scores, other.scores, strict=True)]
    spread = statistics.pstdev(reference.scores)
    same_tokens = None
    if reference.prompt_tokens is not None and other.prompt_tokens is not None:
        same_tokens = reference.prompt_tokens == other.prompt_tokens
    largest = max(differences)
    return {
        "agrees": largest <= TOLERANCE,
        "tolerance": TOLERANCE,
        "largest_difference": largest,
        "spread_of_scores": spread,
        "correlation": _correlation(reference.scores, other.scores),
        "same_prompt_tokens": same_tokens,
        "pairs": len(differences),
    }


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    return statistics.correlation(a, b) if min(statistics.pstdev(a), statistics.pstdev(b)) > 0 else None
