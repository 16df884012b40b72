"""The common dialect: one answer that the clients of Cohere v1 and v2, Jina, vLLM, xinference and others read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, StrictStr

from reranker.dialects.answers import head_of, left_out, marks_of, meta_of, score_of, timings_of, usage_of
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.envelope import universal
from reranker.dialects.options import Item, Items, Options
from reranker.dialects.texts import echoed, metadata_of, query_of, texts_of
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

    def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> JSON:
        body: RerankBody = asked.body
        [request], [ranking] = asked.lists, rankings
        results: list[dict[str, Any]] = []
        for ranked in ranking.results:
            result: dict[str, Any] = {"index": ranked.index, "relevance_score": score_of(ranked, asked)}
            if body.return_documents:  # left out otherwise, never null: several clients break on null
                result["document"] = echo(body.documents[ranked.index], request.documents[ranked.index])
            results.append(result | marks_of(ranked))
        numbers = {"usage": usage_of(rankings), "meta": meta_of(asked, rankings, served)}
        left = left_out(ranking) | timings_of(asked, served)
        return head_of("rerank", served) | {"results": results} | numbers | left

    return write


_DOCUMENTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]

DIALECT = Dialect(
    name="rerank",
    body=RerankBody,
    read=read,
    write=writer(echoed),
    error=universal,
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
