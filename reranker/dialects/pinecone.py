"""Pinecone's dialect: as Cohere's in, results with a `score` under `data` out. Chosen by its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NotRequired

from pydantic import Field

from reranker.dialects import answers, rerank
from reranker.dialects.base import QUESTION, TEXTS, RankingCall
from reranker.record import RequestRecord
from reranker.types import Ranking


class PineconeBody(rerank.RerankBody):
    """A query and its documents, as Pinecone names them; what is in `parameters` may as well stand beside it."""

    return_documents: bool | None = True
    """Return each document too."""


class PineconeResult(answers.WithSpans):
    """One document's place in the ranking."""

    index: answers.Index
    score: answers.Score
    document: NotRequired[Annotated[dict[str, Any], Field(description="Unless `return_documents` is false.")]]


class PineconeUsage(answers.Usage):
    """What a request took; a unit is a query with up to 100 documents."""

    rerank_units: int


class PineconeAnswer(answers.Omissions):
    """The documents, best first."""

    model: str
    data: list[PineconeResult]
    usage: PineconeUsage
    stages: NotRequired[answers.CascadeStages]
    timings: NotRequired[answers.Timings]


def unfold(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the fields of `parameters` as if they stood beside it."""
    within = fields.get("parameters")
    if not isinstance(within, dict):
        return fields
    return within | {name: value for name, value in fields.items() if name != "parameters"}


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> PineconeAnswer:
    [ranking] = rankings
    tail = answers.tail_of(call, ranking, record)
    return {
        **tail,
        "model": model,
        "data": answers.results_of(call, ranking, rerank.echo, "score"),
        "usage": {**tail["usage"], "rerank_units": answers.units_of(call)},
    }


DIALECT = replace(
    rerank.DIALECT,
    name="pinecone",
    summary="The same in Pinecone's dialect.",
    paths=("/pinecone/rerank",),
    shares_paths=False,
    unfold=unfold,
    body=PineconeBody,
    answer=PineconeAnswer,
    write=write,
    examples={
        "Pinecone": {
            "model": "bge-reranker-v2-m3",
            "query": QUESTION,
            "documents": [{"id": f"{place}", "text": text} for place, text in enumerate(TEXTS)],
            "rank_fields": ["text"],
            "top_n": 2,
            "return_documents": True,
            "parameters": {"truncate": "END"},
        }
    },
)
