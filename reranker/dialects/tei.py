"""The dialect of Hugging Face's TEI: `texts` in, a bare list out. Chosen by `texts`. And what TEI says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from reranker.config import RerankerConfig
from reranker.dialects.answers import ErrorBody, Index, Score, error_body, score_of
from reranker.dialects.base import Asked, Dialect, Served
from reranker.dialects.fields import Item, Items, Options, metadata_of, query_of, texts_of
from reranker.errors import RerankerError
from reranker.model.checkpoint import Checkpoint
from reranker.types import Ranking, RankRequest

_ERROR_TYPES = {400: "Validation", 413: "Validation", 429: "Overloaded", 503: "Unhealthy"}


class TeiBody(Options):
    """A query and its documents, as TEI names them."""

    query: Item
    """What the texts are ranked for."""
    texts: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    return_text: bool | None = None
    """Return each text too."""
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    """Which end of a too long text is cut off."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all. LiteLLM sends it; TEI itself has no such field."""


class TeiResult(TypedDict):
    """One text's place in the ranking."""

    index: Index
    score: Score
    text: NotRequired[Annotated[str, Field(description="When asked for.")]]


class TeiInfo(TypedDict):
    """What TEI says of itself at /info."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, dict[str, Any]]
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool


def read(body: TeiBody) -> tuple[RankRequest, ...]:
    """Give the one list that was sent."""
    terms = body.terms()
    if body.truncation_direction:
        terms["truncation_side"] = "start" if body.truncation_direction.lower() == "left" else "end"
    return (
        RankRequest(
            query=query_of(body.query, "query"),
            documents=texts_of(body.texts, "texts"),
            metadata=metadata_of(body.texts),
            top_n=body.top_n or None,
            **terms,
        ),
    )


def write(asked: Asked, rankings: Sequence[Ranking], served: Served) -> list[TeiResult]:
    """Write the answer, best first. A list has no place for anything else."""
    [request], [ranking] = asked.lists, rankings
    results: list[TeiResult] = []
    for ranked in ranking.results:
        result: TeiResult = {"index": ranked.index, "score": score_of(ranked, asked)}
        if asked.body.return_text:
            result["text"] = request.documents[ranked.index]
        results.append(result)
    return results


def write_error(error: RerankerError) -> ErrorBody:
    """Write an error with TEI's own word for its kind; ours is beside it."""
    kind = _ERROR_TYPES.get(error.status_code, "Validation" if error.status_code < 500 else "Backend")
    return {**error_body(error), "error_type": kind, "code": error.code}


def info(model: str, checkpoint: Checkpoint, config: RerankerConfig) -> TeiInfo:
    """Describe the service as TEI does.

    Args:
        model: The name that answers give.
        checkpoint: The model's.
        config: The service's.
    """
    return {
        "model_id": model,
        "model_sha": checkpoint.revision,
        "model_dtype": checkpoint.dtype,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": checkpoint.max_pair_tokens,
        "max_batch_tokens": config.engine.max_batch_tokens,
        "max_client_batch_size": config.limits.max_documents,
        "auto_truncate": True,
    }


DIALECT = Dialect(
    name="tei",
    summary="The same in TEI's dialect.",
    chosen_by=("texts",),
    body=TeiBody,
    lists=("texts",),
    read=read,
    answer=list[TeiResult],
    write=write,
    error=write_error,
    examples={
        "TEI": {
            "query": "What is the capital of China?",
            "texts": ["Gravity attracts bodies.", "The capital of China is Beijing."],
            "return_text": True,
        }
    },
)
