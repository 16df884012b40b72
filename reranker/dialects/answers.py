"""The parts that the answers of several dialects are made of, with their types; and the body of an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from reranker.dialects.base import Asked, Served
from reranker.errors import RerankerError
from reranker.record import RequestRecord
from reranker.types import RankedDocument, Ranking

_SEARCH_UNIT_DOCUMENTS = 100  # Cohere's unit: one query with up to 100 documents

Index: TypeAlias = Annotated[int, Field(description="Position in the request's documents.")]
Score: TypeAlias = Annotated[float, Field(description="In [0, 1]; log-odds with `raw_scores`.")]


class Head(TypedDict):
    """How an answer begins."""

    id: str
    object: str
    model: str
    created: Annotated[int, Field(description="Unix time.")]


class Usage(TypedDict):
    """What a request took, in numbers only: several clients break on anything else in it."""

    prompt_tokens: int
    total_tokens: int
    deduplicated_pairs: int
    cached_documents: int
    coalesced_documents: int


class Marks(TypedDict, total=False):
    """What happened to a long document; nothing for the others."""

    truncated: Annotated[bool, Field(description="The document was too long and lost tokens; absent otherwise.")]
    windows: Annotated[int, Field(description="Prompts it took to score a long document; absent when it was one.")]


class Unscored(TypedDict):
    """A document that there was no time for."""

    index: Index


class Excluded(TypedDict):
    """A document that a rule or the threshold left out."""

    index: Index
    rule: str


class LeftOut(TypedDict, total=False):
    """The documents that are not among the results, if there are any, and why."""

    unscored: list[Unscored]
    excluded: list[Excluded]


class ShardTiming(TypedDict):
    """Where one shard was scored, and how long that took."""

    replica: str | None
    documents: list[Index]
    pairs: int
    tokens: int
    queue_ms: float
    engine_ms: float
    total_ms: float
    attempts: int


class Timings(TypedDict):
    """What a request went through."""

    total_ms: float
    stages_ms: dict[str, float]
    shards: NotRequired[list[ShardTiming]]


class Timed(TypedDict, total=False):
    """An answer with timings, which come where they are asked for."""

    timings: Timings


class Meta(TypedDict):
    """Cohere's `meta`, and how the lists were scored."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: dict[str, int]
    pairs: int
    truncated_documents: int
    shards: int
    replicas: int
    retries: int
    hedges: int


class ErrorBody(TypedDict):
    """An error, with the sentence under every name that a client looks for it."""

    message: Annotated[str, Field(description="A sentence a person can act on.")]
    detail: Annotated[str, Field(description="The same, under another client's name for it.")]
    error: Annotated[
        str | dict[str, Any],
        Field(description="The same; an object with `message`, `type`, `param` and `code` on /score."),
    ]
    error_type: Annotated[str, Field(description="What kind of error; does not change with the wording.")]
    field: NotRequired[
        Annotated[str, Field(description="The field of the request that it is about: documents[3].text.")]
    ]
    code: NotRequired[Annotated[str, Field(description="In TEI's dialect, whose `error_type` is TEI's own word.")]]


def error_body(error: RerankerError) -> ErrorBody:
    """Write an error so that every client finds the sentence under the name it looks for.

    String values throughout: Jina's, Voyage's and xinference's clients show `detail`, Cohere's shows the body, TEI's
    shows `error`.
    """
    said = str(error)
    body: ErrorBody = {"message": said, "detail": said, "error": said, "error_type": error.code}
    if error.field:
        body["field"] = error.field
    return body


def score_of(ranked: RankedDocument, asked: Asked) -> float:
    """Give the score as it was asked for: in [0, 1], or as log-odds."""
    return ranked.log_odds if asked.body.log_odds else ranked.relevance_score


def marks_of(ranked: RankedDocument) -> Marks:
    """Say what happened to a document."""
    marks: Marks = {}
    if ranked.truncated:
        marks["truncated"] = True
    if ranked.windows > 1:
        marks["windows"] = ranked.windows
    return marks


def usage_of(rankings: Sequence[Ranking]) -> Usage:
    """Sum up what the lists took."""
    tokens = sum(ranking.prompt_tokens for ranking in rankings)
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "deduplicated_pairs": sum(ranking.deduplicated_pairs for ranking in rankings),
        "cached_documents": sum(ranking.cached_documents for ranking in rankings),
        "coalesced_documents": sum(ranking.coalesced_documents for ranking in rankings),
    }


def meta_of(asked: Asked, rankings: Sequence[Ranking], served: Served) -> Meta:
    """Sum up how the lists were scored."""
    return {
        "api_version": {"version": "1"},
        "billed_units": {"search_units": sum(-(-len(one.documents) // _SEARCH_UNIT_DOCUMENTS) for one in asked.lists)},
        "tokens": {"input_tokens": sum(one.prompt_tokens for one in rankings), "output_tokens": 0},
        "pairs": served.record.pairs,
        "truncated_documents": sum(one.truncated_documents for one in rankings),
        "shards": len(served.record.shards),
        "replicas": served.record.replicas,
        "retries": served.record.retries,
        "hedges": served.record.hedges,
    }


def timings_of(asked: Asked, served: Served) -> Timed:
    """Say what happened to the list until now and who scored it, if that was asked for."""
    record = served.record
    if not asked.body.timings:
        return {}
    return {"timings": {**stages_of(record), "shards": _shards_of(record)}}


def stages_of(record: RequestRecord) -> Timings:
    """Say what the stages of a request took until now."""
    stages = {f"{stage}": _ms(took_s) for stage, took_s in record.stages_s().items()}
    return {"total_ms": _ms(record.total_s), "stages_ms": stages}


def _shards_of(record: RequestRecord) -> list[ShardTiming]:
    return [
        {
            "replica": one.replica or None,
            "documents": one.documents,
            "pairs": one.pairs,
            "tokens": one.tokens,
            "queue_ms": _ms(one.queue_s),
            "engine_ms": _ms(one.engine_s),
            "total_ms": _ms(one.total_s),
            "attempts": len(one.attempts),
        }
        for one in record.shards
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def left_out(ranking: Ranking) -> LeftOut:
    """Name the documents that are not among the results."""
    left: LeftOut = {}
    if ranking.unscored:
        left["unscored"] = [{"index": index} for index in ranking.unscored]
    if ranking.excluded:
        left["excluded"] = [{"index": one.index, "rule": one.rule} for one in ranking.excluded]
    return left


def head_of(kind: str, served: Served) -> Head:
    """Begin an answer.

    Args:
        kind: What it is, under `object`.
        served: What every answer says.
    """
    return {"id": served.request_id, "object": kind, "model": served.model, "created": served.created_s}
