"""The dialect of Hugging Face's TEI: `texts` in, a bare list out. Chosen by `texts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from reranker.dialects.answers import score_of
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.envelope import Problem, universal
from reranker.dialects.options import Item, Items, Options
from reranker.dialects.texts import metadata_of, query_of, texts_of
from reranker.types import Ranking, RankRequest

_ERROR_TYPES = {400: "Validation", 413: "Validation", 429: "Overloaded", 503: "Unhealthy"}


class TeiBody(Options):
    """A query and its documents, as TEI names them."""

    query: Item
    """What the texts are ranked for."""
    texts: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    return_text: bool | None = None
    """Return each text too."""
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    """Which end of a too long text is cut off."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all. LiteLLM sends it; TEI itself has no such field."""


def read(body: TeiBody) -> tuple[RankRequest, ...]:
    """Give the one list that was sent."""
    terms = body.terms()
    if body.truncation_direction:
        terms["truncation_side"] = "start" if body.truncation_direction.lower() == "left" else "end"
    return (
        RankRequest(
            query=query_of(body.query, "query"),
            documents=texts_of(body.texts, "texts"),
            metadata=metadata_of(body.texts),
            top_n=body.top_n or None,
            **terms,
        ),
    )


def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> JSON:
    """Write the answer, best first. A list has no place for anything else."""
    [request], [ranking] = asked.lists, rankings
    results: list[dict[str, Any]] = []
    for ranked in ranking.results:
        result: dict[str, Any] = {"index": ranked.index, "score": score_of(ranked, asked)}
        if asked.body.return_text:
            result["text"] = request.documents[ranked.index]
        results.append(result)
    return results


def error(problem: Problem) -> JSON:
    """Write an error with TEI's own word for its kind; ours is beside it."""
    kind = _ERROR_TYPES.get(problem.status, "Validation" if problem.status < 500 else "Backend")
    return universal(problem) | {"error_type": kind, "code": problem.code}


DIALECT = Dialect(
    name="tei",
    body=TeiBody,
    read=read,
    write=write,
    error=error,
    examples={
        "TEI": {
            "query": "What is the capital of China?",
            "texts": ["Gravity attracts bodies.", "The capital of China is Beijing."],
            "return_text": True,
        }
    },
)
