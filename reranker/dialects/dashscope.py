"""DashScope's own dialect: `input` and `parameters` in, `output` out. Chosen by an `input` that is an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import list_of
from reranker.dialects.rerank import RerankBody
from reranker.record import RequestRecord
from reranker.types import Ranking


class DashscopeOutput(TypedDict):
    """The documents, best first."""

    results: list[answers.ResultWithSpans]


class DashscopeAnswer(answers.Tail):
    """The documents, best first, and the request's id."""

    output: DashscopeOutput
    request_id: str


def unfold(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the fields of `input` and `parameters` as if they stood beside these."""
    within = {name: fields[name] for name in ("input", "parameters") if isinstance(fields.get(name), dict)}
    rest = {name: value for name, value in fields.items() if name not in within}
    return {name: value for one in (rest, *within.values()) for name, value in one.items()}


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> DashscopeAnswer:
    [ranking] = rankings
    return {
        "output": {"results": answers.results_of(call, ranking, lambda call, i: {"text": answers.text_of(call, i)})},
        "request_id": record.request_id,
        **answers.tail_of(call, ranking, record),
    }


DIALECT = Dialect(
    name="dashscope",
    summary="The same in DashScope's own dialect.",
    paths=("/api/v1/services/rerank/text-rerank/text-rerank",),
    chosen_by=("input",),
    chosen_as=dict,
    unfold=unfold,
    body=RerankBody,
    lists=("documents",),
    read=lambda body: list_of(body, "documents", body.top_n, body.rank_fields or ()),
    answer=DashscopeAnswer,
    write=write,
    error=answers.error_body,
    examples={
        "DashScope": {"model": "m", "input": {"query": QUESTION, "documents": TEXTS}, "parameters": {"top_n": 2}}
    },
)
