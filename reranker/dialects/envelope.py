"""How an error is written: the envelope that suits every client, and the facts that a dialect's own is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from reranker.errors import RerankerError

TIMEOUT_HEADER = "X-Reranker-Timeout-S"
"""Seconds the client gives a list."""
IGNORED_HEADER = "X-Reranker-Ignored"
"""In an answer: the fields of the request that are known, could change the ranking, and were not obeyed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, for a client."""

    message: str
    """A sentence a person can act on. Holds no document and no query."""
    code: str
    status: int
    field: str = ""
    """The field of the request it is about, as a path: documents[3].text."""

    @classmethod
    def of(cls, error: RerankerError) -> Self:
        """Read one of our errors."""
        return cls(str(error), error.code, error.status_code, getattr(error, "field", ""))


def universal(problem: Problem) -> dict[str, Any]:
    """Write an error so that every client finds the sentence under the name it looks for.

    String values throughout: Jina's, Voyage's and xinference's clients show `detail`, Cohere's shows the body, TEI's
    shows `error`.
    """
    said = problem.message
    body = {"message": said, "detail": said, "error": said, "error_type": problem.code}
    return body | {"field": problem.field} if problem.field else body
