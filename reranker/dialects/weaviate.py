"""The dialect of Weaviate's reranker-transformers: every document comes back, in its place. Chosen by `property`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Items, ListOptions, list_of
from reranker.record import RequestRecord
from reranker.types import Ranking


class WeaviateBody(ListOptions):
    """A query and its documents, as Weaviate sends them."""

    documents: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    property: Any = None
    """Of the objects in Weaviate that the documents are from."""


class WeaviateScore(TypedDict):
    """One document."""

    document: str
    score: answers.Score


class WeaviateAnswer(answers.Tail):
    """The scores, in the order of the documents."""

    scores: list[WeaviateScore]


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> WeaviateAnswer:
    [ranking] = rankings
    in_place = sorted(ranking.results, key=lambda one: one.index)
    return {
        "scores": [
            {"document": answers.text_of(call, one.index), "score": answers.score_of(one, call)} for one in in_place
        ],
        **answers.tail_of(call, ranking, record),
    }


DIALECT = Dialect(
    name="weaviate",
    summary="The same in the dialect of Weaviate's reranker-transformers.",
    paths=("/weaviate/rerank",),
    chosen_by=("property",),
    body=WeaviateBody,
    lists=("documents",),
    read=lambda body: list_of(body, "documents", body.top_n),
    complete=True,
    answer=WeaviateAnswer,
    write=write,
    error=answers.error_body,
    examples={"Weaviate": {"query": QUESTION, "documents": TEXTS, "property": "text"}},
)
