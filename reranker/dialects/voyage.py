"""Voyage's dialect: `top_k` in, results under `data` out. Chosen by `top_k`, even null, or by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from reranker.dialects.answers import head_of, left_out, marks_of, score_of, timings_of, usage_of
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.envelope import universal
from reranker.dialects.options import Item, Items, Options
from reranker.dialects.texts import metadata_of, query_of, texts_of
from reranker.types import Ranking, RankRequest


class VoyageBody(Options):
    """A query and its documents, as Voyage names them."""

    query: Item
    """What the documents are ranked for."""
    documents: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """The same, by its other name; `top_k` counts if both are there."""
    return_documents: bool | None = None
    """Return each document's text too."""


def read(body: VoyageBody) -> tuple[RankRequest, ...]:
    """Give the one list that was sent."""
    return (
        RankRequest(
            query=query_of(body.query, "query"),
            documents=texts_of(body.documents, "documents"),
            metadata=metadata_of(body.documents),
            top_n=body.top_k or body.top_n or None,
            **body.terms(),
        ),
    )


def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> JSON:
    """Write the answer, documents as strings."""
    [request], [ranking] = asked.lists, rankings
    data: list[dict[str, Any]] = []
    for ranked in ranking.results:
        result: dict[str, Any] = {"index": ranked.index, "relevance_score": score_of(ranked, asked)}
        if asked.body.return_documents:
            result["document"] = request.documents[ranked.index]
        data.append(result | marks_of(ranked))
    left = left_out(ranking) | timings_of(asked, served)
    return head_of("list", served) | {"data": data, "usage": usage_of(rankings)} | left


DIALECT = Dialect(
    name="voyage",
    body=VoyageBody,
    read=read,
    write=write,
    error=universal,
    examples={
        "Voyage": {
            "query": "What is the capital of China?",
            "documents": ["Gravity attracts bodies.", "The capital of China is Beijing."],
            "top_k": 1,
            "truncation": True,
        }
    },
)
