"""The dialect of Hugging Face's TEI: `texts` in, a bare list out. Chosen by `texts`. And what TEI says of itself.

And two more that answer with a bare list: `documents` in, by a path; `docs` in, chosen by these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from reranker.config import RerankerConfig
from reranker.dialects import answers
from reranker.dialects.base import QUESTION, TEXTS, Dialect, RankingCall
from reranker.dialects.fields import Items, ListOptions, list_of
from reranker.engine.cards import settings_for
from reranker.errors import RerankerError
from reranker.model.checkpoint import Checkpoint
from reranker.record import RequestRecord
from reranker.types import Ranking

_ERROR_TYPES = {400: "Validation", 413: "Validation", 429: "Overloaded", 503: "Unhealthy"}


class _BareListBody(ListOptions):
    """What a bare list is answered to, and `top_n`, which TEI has not and LiteLLM sends."""

    return_text: bool | None = None
    """Return each text too."""
    return_documents: bool | None = None
    """As `return_text`, as others name it."""
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    """Which end of a too long text is cut off."""

    def terms(self) -> dict[str, Any]:  # Any: of every type
        sides = {"left": "start", "right": "end"}
        cut = {"truncation_side": sides[self.truncation_direction.lower()]} if self.truncation_direction else {}
        return super().terms() | cut


class TeiBody(_BareListBody):
    """A query and its documents, as TEI names them."""

    texts: Annotated[Items, Field(min_length=1)]
    """The candidates."""


class ListBody(_BareListBody):
    """A query and its documents, as Cohere and others name them."""

    documents: Annotated[Items, Field(min_length=1)]
    """The candidates."""


class SglangBody(ListOptions):
    """A query and its documents, as SGLang names them."""

    documents: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    return_documents: bool | None = None
    """Return each document too."""


class SimpleBody(ListOptions):
    """LibreChat's `simple`."""

    docs: Annotated[Items, Field(min_length=1)]
    """The candidates."""
    k: Annotated[int, Field(ge=0)] | None = None
    """As `top_n`; counts if both are there."""


class SimpleResult(TypedDict):
    """One text's place in the ranking."""

    text: str
    score: answers.Score


class TeiResult(TypedDict):
    """One text's place in the ranking."""

    index: answers.Index
    score: answers.Score
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


class SglangResult(TypedDict):
    """One document's place in the ranking."""

    index: answers.Index
    score: answers.Score
    document: NotRequired[Annotated[str, Field(description="When asked for.")]]


def write(call: RankingCall, rankings: Sequence[Ranking], model: str, record: RequestRecord) -> list[TeiResult]:
    [ranking] = rankings
    results: list[TeiResult] = []
    for ranked in ranking.results:
        result: TeiResult = {"index": ranked.index, "score": answers.score_of(ranked, call)}
        if call.body.return_text or call.body.return_documents:
            result["text"] = answers.text_of(call, ranked.index)
        results.append(result)
    return results


def write_error(error: RerankerError) -> answers.ErrorBody:
    """Write an error with TEI's own word for its kind; ours is beside it."""
    kind = _ERROR_TYPES.get(error.status_code, "Validation" if error.status_code < 500 else "Backend")
    return {**answers.error_body(error), "error_type": kind, "code": error.code}


def info(model: str, checkpoint: Checkpoint, config: RerankerConfig) -> TeiInfo:
    return {
        "model_id": model,
        "model_sha": checkpoint.revision,
        "model_dtype": checkpoint.dtype,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": checkpoint.max_pair_tokens,
        "max_batch_tokens": settings_for(config.engine, None).max_batch_tokens,  # of engines on GPUs it may be more
        "max_client_batch_size": config.limits.max_documents,
        "auto_truncate": True,
    }


DIALECT = Dialect(
    name="tei",
    summary="The same in TEI's dialect.",
    chosen_by=("texts",),
    body=TeiBody,
    lists=("texts",),
    read=lambda body: list_of(body, "texts", body.top_n),
    answer=list[TeiResult],
    write=write,
    error=write_error,
    examples={"TEI": {"query": QUESTION, "texts": TEXTS, "return_text": True}},
)
LIST = replace(
    DIALECT,
    name="list",
    summary="`documents` in, a bare list out: Elasticsearch's `hugging_face`.",
    paths=("/list/rerank", "/list/v1/rerank"),
    chosen_by=(),
    shares_paths=False,
    body=ListBody,
    lists=("documents",),
    read=lambda body: list_of(body, "documents", body.top_n),
    error=answers.error_body,
    examples={"Elasticsearch's hugging_face": {"query": QUESTION, "documents": TEXTS, "return_documents": False}},
)
SGLANG = replace(
    LIST,
    name="sglang",
    summary="`documents` in, SGLang's bare list out.",
    paths=("/sglang/v1/rerank",),
    body=SglangBody,
    answer=list[SglangResult],
    write=lambda call, rankings, model, record: answers.results_of(call, rankings[0], answers.text_of, "score"),
    examples={"SGLang": {"query": QUESTION, "documents": TEXTS, "top_n": 2}},
)
SIMPLE = replace(
    DIALECT,
    name="simple",
    summary="`docs` in, their texts with scores out: LibreChat's `simple`.",
    chosen_by=("docs",),
    body=SimpleBody,
    lists=("docs",),
    read=lambda body: list_of(body, "docs", body.k or body.top_n),
    answer=list[SimpleResult],
    write=lambda call, rankings, model, record: [
        {"text": answers.text_of(call, one.index), "score": answers.score_of(one, call)} for one in rankings[0].results
    ],
    error=answers.error_body,
    examples={"LibreChat's simple": {"query": QUESTION, "docs": TEXTS, "k": 2}},
)
