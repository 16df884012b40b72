"""NVIDIA's dialect (NIM, NeMo Retriever): `passages` in, their log-odds under `rankings` out. Chosen by its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Items, ListOptions, list_of
from reranker.record import RequestRecord
from reranker.types import Ranking


class NvidiaBody(ListOptions):
    """A query and its passages, as NVIDIA names them, each an object with a `text`, or a string."""

    passages: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """As `top_n`, in NVIDIA's hosted API; counts if both are there."""


class NvidiaRanking(TypedDict):
    """One passage's place in the ranking."""

    index: answers.Index
    logit: Annotated[float, Field(description="Log-odds: above 0 is relevant.")]


class NvidiaAnswer(answers.Tail):
    """The passages, best first."""

    rankings: list[NvidiaRanking]


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> NvidiaAnswer:
    [ranking] = rankings
    return {
        "rankings": [{"index": one.index, "logit": one.log_odds} for one in ranking.results],
        **answers.tail_of(call, ranking, record),
    }


DIALECT = Dialect(
    name="nvidia",
    summary="The same in NVIDIA's dialect.",
    paths=("/v1/ranking", "/nvidia/v1/ranking", "/v1/retrieval/{model:path}/reranking"),
    shares_paths=False,
    body=NvidiaBody,
    lists=("passages",),
    read=lambda body: list_of(body, "passages", body.top_k or body.top_n),
    answer=NvidiaAnswer,
    write=write,
    error=answers.error_body,
    examples={
        "NVIDIA": {"query": {"text": QUESTION}, "passages": [{"text": text} for text in TEXTS], "truncate": "END"},
    },
)
