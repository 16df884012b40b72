"""Voyage's dialect: `top_k` in, results under `data` out. Chosen by `top_k`, even null, or by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import Field

from reranker.dialects import answers
from reranker.dialects.base import Asked, Dialect, Served
from reranker.dialects.fields import Item, Items, Options, metadata_of, query_of, texts_of
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


class VoyageResult(answers.Marks):
    """One document's place in the ranking."""

    index: answers.Index
    relevance_score: answers.Score
    document: NotRequired[Annotated[str, Field(description="When asked for.")]]


class VoyageAnswer(answers.Head, answers.LeftOut, answers.Timed):
    """The documents, best first."""

    data: list[VoyageResult]
    usage: answers.Usage


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


def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> VoyageAnswer:
    """Write the answer, documents as strings."""
    [request], [ranking] = asked.lists, rankings
    data: list[VoyageResult] = []
    for ranked in ranking.results:
        result: VoyageResult = {"index": ranked.index, "relevance_score": answers.score_of(ranked, asked)}
        if asked.body.return_documents:
            result["document"] = request.documents[ranked.index]
        data.append({**result, **answers.marks_of(ranked)})
    return {
        **answers.head_of("list", served),
        "data": data,
        "usage": answers.usage_of(rankings),
        **answers.left_out(ranking),
        **answers.timings_of(asked, served),
    }


DIALECT = Dialect(
    name="voyage",
    summary="The same in Voyage's dialect, also where `top_k` is not set.",
    paths=("/voyage/v1/rerank",),  # LiteLLM asks Voyage as it asks Cohere, and wants another answer
    chosen_by=("top_k",),  # even null: Voyage's client sends it so when it is not set
    body=VoyageBody,
    lists=("documents",),
    read=read,
    answer=VoyageAnswer,
    write=write,
    error=answers.error_body,
    examples={
        "Voyage": {
            "query": "What is the capital of China?",
            "documents": ["Gravity attracts bodies.", "The capital of China is Beijing."],
            "top_k": 1,
            "truncation": True,
        }
    },
)
