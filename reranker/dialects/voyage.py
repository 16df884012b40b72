"""Voyage's dialect: `top_k` in, results under `data` out. Chosen by `top_k`, even null, or by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Items, ListOptions, list_of
from reranker.record import RequestRecord
from reranker.types import Ranking


class VoyageBody(ListOptions):
    """A query and its documents, as Voyage names them."""

    documents: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """As `top_n`; counts if both are there."""
    return_documents: bool | None = None
    """Return each document's text too."""


class VoyageAnswer(answers.Head, answers.Tail):
    """The documents, best first."""

    data: list[answers.RankedResult]


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> VoyageAnswer:
    [ranking] = rankings
    return {
        **answers.head_of("list", model, record),
        "data": answers.results_of(call, ranking, answers.text_of),
        **answers.tail_of(call, ranking, record),
    }


DIALECT = Dialect(
    name="voyage",
    summary="The same in Voyage's dialect, also where `top_k` is not set.",
    paths=("/voyage/v1/rerank",),  # LiteLLM asks Voyage as it asks Cohere, and wants another answer
    chosen_by=("top_k",),  # even null: Voyage's client sends it so when it is not set
    body=VoyageBody,
    lists=("documents",),
    read=lambda body: list_of(body, "documents", body.top_k or body.top_n),
    answer=VoyageAnswer,
    write=write,
    error=answers.error_body,
    examples={"Voyage": {"query": QUESTION, "documents": TEXTS, "top_k": 1, "truncation": True}},
)
