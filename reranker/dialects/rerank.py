"""The common dialect: one answer that the clients of Cohere v1 and v2, Jina, vLLM, xinference and others read.

Infinity's is the same, but a document comes back as a string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, NotRequired

from pydantic import Field, StrictStr

from reranker.dialects import answers
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.fields import Item, Items, Options, echoed, metadata_of, query_of, texts_of
from reranker.types import Ranking, RankRequest


class RerankBody(Options):
    """A query and its documents, as Cohere, Jina and vLLM name them."""

    query: Item
    """What the documents are ranked for: a string, or an object with a `text`."""
    documents: Annotated[Items, Field(min_length=1)]
    """The candidates: strings, or objects. An object is its `text`; without one, all of it as YAML."""
    rank_fields: Annotated[list[StrictStr], Field(fail_fast=True)] | None = None
    """The fields of objects that are ranked, in this order, as YAML (Cohere v1)."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all."""
    return_documents: bool | None = None
    """Return each document too."""


class RankedResult(answers.Marks):
    """One document's place in the ranking."""

    index: answers.Index
    relevance_score: answers.Score
    document: NotRequired[
        Annotated[Any, Field(description="When asked for: an object; to Infinity's clients, a string.")]
    ]


class RerankAnswer(answers.Head, answers.LeftOut, answers.Timed):
    """The documents, best first."""

    results: list[RankedResult]
    usage: answers.Usage
    meta: answers.Meta


def read(body: RerankBody) -> tuple[RankRequest, ...]:
    """Give the one list that was sent."""
    return (
        RankRequest(
            query=query_of(body.query, "query"),
            documents=texts_of(body.documents, "documents", body.rank_fields or ()),
            metadata=metadata_of(body.documents),
            top_n=body.top_n or None,
            **body.terms(),
        ),
    )


def writer(echo: Callable[[Item, str], JSON]) -> Callable[[Asked, Sequence[Ranking], Served], JSON]:
    """Make what writes the answer.

    Args:
        echo: Gives a document back, from what was sent and the text it was read as.
    """

    def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> RerankAnswer:
        body: RerankBody = asked.body
        [request], [ranking] = asked.lists, rankings
        results: list[RankedResult] = []
        for ranked in ranking.results:
            result: RankedResult = {"index": ranked.index, "relevance_score": answers.score_of(ranked, asked)}
            if body.return_documents:  # left out otherwise, never null: several clients break on null
                result["document"] = echo(body.documents[ranked.index], request.documents[ranked.index])
            results.append({**result, **answers.marks_of(ranked)})
        return {
            **answers.head_of("rerank", served),
            "results": results,
            "usage": answers.usage_of(rankings),
            "meta": answers.meta_of(asked, rankings, served),
            **answers.left_out(ranking),
            **answers.timings_of(asked, served),
        }

    return write


_DOCUMENTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]

DIALECT = Dialect(
    name="rerank",
    summary="Rank documents by their relevance to a query, best first.",
    body=RerankBody,
    lists=("documents", "rank_fields"),
    read=read,
    answer=RerankAnswer,
    write=writer(echoed),
    error=answers.error_body,
    examples={
        "Cohere, Jina, vLLM": {"query": "What is the capital of China?", "documents": _DOCUMENTS, "top_n": 2},
        "documents as objects": {
            "query": "What is the capital of China?",
            "documents": [{"text": text, "source": "atlas"} for text in _DOCUMENTS],
            "return_documents": True,
        },
        "structured documents": {
            "query": "a novel about a whale",
            "documents": [
                {"title": "Moby-Dick", "about": "A captain hunts a whale.", "shelf": 3},
                {"title": "Emma", "about": "A young woman makes matches.", "shelf": 7},
            ],
            "rank_fields": ["title", "about"],
        },
        "instruction, deadline, class": {
            "query": "What is the capital of China?",
            "documents": _DOCUMENTS,
            "instruction": "Given a question, retrieve the sentence that answers it",
            "timeout_s": 5,
            "allow_partial": True,
            "priority": "bulk",
        },
    },
)
INFINITY = replace(
    DIALECT,
    name="infinity",
    summary="The same in Infinity's dialect: documents come back as strings.",
    paths=("/infinity/rerank",),  # LiteLLM asks Infinity as it asks vLLM and Cohere, and wants another answer
    chosen_by=("raw_scores",),
    write=writer(lambda _, text: text),
    examples={
        "Infinity": {
            "query": "What is the capital of China?",
            "documents": _DOCUMENTS[:2],
            "return_documents": True,
            "raw_scores": False,
        }
    },
)
