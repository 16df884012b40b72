"""One answer that the clients of Cohere v1 and v2, Jina, vLLM, xinference and others read; and Infinity's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field, StrictStr

from reranker.dialects import answers
from reranker.dialects.base import JSON, QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import EvidenceOptions, Items, ListOptions, list_of
from reranker.record import RequestRecord
from reranker.types import Ranking


class RerankBody(EvidenceOptions, ListOptions):  # type: ignore[misc]  # to pydantic's plugin, two constructors
    """A query and its documents, as Cohere, Jina and vLLM name them."""

    documents: Annotated[Items, Field(min_length=1)]
    """The candidates: strings, or objects. An object is its `text`; without one, all of it as YAML."""
    rank_fields: Annotated[list[StrictStr], Field(fail_fast=True)] | None = None
    """The fields of objects that are ranked, in this order, as YAML (Cohere v1)."""


class RerankAnswer(answers.Head, answers.Tail):
    """The documents, best first."""

    results: list[answers.ResultWithSpans]
    meta: answers.Meta


class ZeroentropyAnswer(RerankAnswer):
    """The same, with what ZeroEntropy's client has fields for."""

    total_bytes: int
    total_tokens: int
    e2e_latency: Annotated[float, Field(description="Seconds from the request's head.")]
    inference_latency: Annotated[float, Field(description="Seconds from an engine's first pair to its last score.")]
    actual_latency_mode: str


def write(
    document_of: Callable[[RankingCall, int], JSON],
    call: RankingCall,
    rankings: Sequence[Ranking],
    model: str,
    record: RequestRecord,
) -> RerankAnswer:
    [ranking] = rankings
    return {
        **answers.head_of("rerank", model, record),
        "results": answers.results_of(call, ranking, document_of),
        "meta": answers.meta_of(call, rankings, record),
        **answers.tail_of(call, ranking, record),
    }


def _write_zeroentropy(
    call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord
) -> ZeroentropyAnswer:
    return {
        **write(echo, call, rankings, model, record),
        "total_bytes": record.body_bytes,
        "total_tokens": sum(one.prompt_tokens for one in rankings),
        "e2e_latency": record.total_s,
        "inference_latency": record.stages_s().get("engine", 0.0),
        "actual_latency_mode": "fast",
    }


def echo(call: RankingCall, index: int) -> JSON:
    """A document as an object with its `text`: its own, or what it was read as."""
    text = {"text": answers.text_of(call, index)}
    item = call.body.documents[index]
    return text if isinstance(item, str) else text | item


DIALECT = Dialect(
    name="rerank",
    summary="Rank documents by their relevance to a query, best first.",
    body=RerankBody,
    lists=("documents", "rank_fields"),
    read=lambda body: list_of(body, "documents", body.top_n, body.rank_fields or ()),
    answer=RerankAnswer,
    write=partial(write, echo),
    error=answers.error_body,
    examples={
        "Cohere, Jina, vLLM": {"query": QUESTION, "documents": TEXTS, "top_n": 2},
        "documents as objects": {
            "query": QUESTION,
            "documents": [{"text": text, "source": "atlas"} for text in TEXTS],
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
        "spans": {"query": QUESTION, "documents": [" ".join(TEXTS)], "relevant_spans": {"mode": "enabled"}},
        "instruction, deadline, class": {
            "query": QUESTION,
            "documents": TEXTS,
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
    write=partial(write, answers.text_of),
    examples={"Infinity": {"query": QUESTION, "documents": TEXTS[:2], "return_documents": True, "raw_scores": False}},
)
ZEROENTROPY = replace(
    DIALECT,
    name="zeroentropy",
    summary="The same in ZeroEntropy's dialect.",
    paths=("/v1/models/rerank",),
    shares_paths=False,
    answer=ZeroentropyAnswer,
    write=_write_zeroentropy,
    examples={"ZeroEntropy": {"model": "zerank-2", "query": QUESTION, "documents": TEXTS, "top_n": 2}},
)
