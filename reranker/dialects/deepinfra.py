"""DeepInfra's dialect: `queries` and `documents` in, their scores by position out. Chosen by its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import TypedDict

from reranker.dialects import answers, score
from reranker.dialects.base import QUESTION, TEXTS, RankingCall
from reranker.record import RequestRecord
from reranker.types import Ranking


class InferenceStatus(TypedDict):
    """What scoring took, as DeepInfra says it."""

    status: str
    runtime_ms: int
    cost: float
    tokens_input: int
    tokens_generated: int


class DeepinfraAnswer(answers.Omissions):
    """A score for each document, in their order."""

    scores: list[answers.Score]
    input_tokens: int
    request_id: str
    inference_status: InferenceStatus


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> DeepinfraAnswer:
    data, left_out = score.scores_of(call, rankings)
    tokens = sum(one.prompt_tokens for one in rankings)
    return {
        "scores": [one["score"] for one in data],
        "input_tokens": tokens,
        "request_id": record.request_id,
        "inference_status": {
            "status": "succeeded",
            "runtime_ms": round(record.total_s * 1e3),
            "cost": 0.0,
            "tokens_input": tokens,
            "tokens_generated": 0,
        },
        **left_out,
    }


DIALECT = replace(
    score.DIALECT,
    name="deepinfra",
    summary="Score pairs, in their order (DeepInfra).",
    paths=("/v1/inference/{model:path}",),
    complete=True,
    answer=DeepinfraAnswer,
    write=write,
    error=answers.error_body,
    examples={"DeepInfra": {"queries": [QUESTION], "documents": TEXTS}},
)
