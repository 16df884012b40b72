"""Mixedbread's dialect: `input` in, results with a `score` under `data` out. Chosen by an `input` that is a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Items, ListOptions, list_of
from reranker.record import RequestRecord
from reranker.types import Ranking


class MixedbreadBody(ListOptions):
    """A query and its documents, as Mixedbread names them."""

    input: Annotated[Items, Field(min_length=1)]
    """The candidates: strings, or objects."""
    rank_fields: Annotated[list[StrictStr], Field(fail_fast=True)] | None = None
    """The fields of objects that are ranked, in this order, as YAML."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """As `top_n`; counts if both are there."""
    return_input: bool | None = None
    """Return each document too."""


class MixedbreadResult(TypedDict):
    """One document's place in the ranking."""

    index: answers.Index
    score: answers.Score
    input: NotRequired[Annotated[Any, Field(description="When asked for: the document as it came.")]]
    object: str


class MixedbreadAnswer(answers.Head, answers.Tail):
    """The documents, best first."""

    data: list[MixedbreadResult]
    top_k: int
    return_input: bool


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> MixedbreadAnswer:
    [ranking] = rankings
    data: list[MixedbreadResult] = []
    for one in ranking.results:
        result: MixedbreadResult = {"index": one.index, "score": answers.score_of(one, call), "object": "rank_result"}
        if call.body.return_input:
            result["input"] = call.body.input[one.index]
        data.append(result)
    return {
        **answers.head_of("list", model, record),
        "data": data,
        "top_k": len(data),
        "return_input": bool(call.body.return_input),
        **answers.tail_of(call, ranking, record),
    }


DIALECT = Dialect(
    name="mixedbread",
    summary="The same in Mixedbread's dialect.",
    paths=("/mixedbread/v1/reranking",),
    chosen_by=("input",),
    chosen_as=list,
    body=MixedbreadBody,
    lists=("input", "rank_fields"),
    read=lambda body: list_of(body, "input", body.top_k or body.top_n, body.rank_fields or ()),
    answer=MixedbreadAnswer,
    write=write,
    error=answers.error_body,
    examples={"Mixedbread": {"model": "m", "query": QUESTION, "input": TEXTS, "top_k": 2, "return_input": True}},
)
