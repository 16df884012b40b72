"""The common rerank dialect: what Cohere, Jina and vLLM style clients send and read.

Lenient where clients differ: `null` for every optional field, "true" for true, unknown fields, documents as strings or
`{"text": …}`. Strict where a wrong value would give a wrong ranking.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StrictInt,
    StrictStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from reranker.errors import InvalidRequestError, RequestTooLargeError, RerankerError
from reranker.types import Aggregate, LongDocuments, Priority, Ranking, RankRequest, TruncationSide

TIMEOUT_HEADER = "X-Reranker-Timeout-S"
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_SECONDS: TypeAdapter[float] = TypeAdapter(_Seconds)
_SIDES: dict[str | None, TruncationSide | None] = {"left": "start", "right": "end", None: None}


class DocumentObject(BaseModel):
    """A document as an object; what it holds besides its text is its metadata, which exclusion rules read."""

    model_config = ConfigDict(extra="allow")

    text: StrictStr


class RerankBody(BaseModel):
    """Body of POST /v1/rerank."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    query: Annotated[StrictStr, StringConstraints(min_length=1, pattern=r"\S")]
    """What the documents are ranked for."""
    documents: Annotated[list[StrictStr | DocumentObject], Field(min_length=1)]
    """The candidates: strings, or objects with a `text`."""
    model: str | None = None
    """Accepted for the clients that send it; the service has one model and names it in its answer."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all."""
    return_documents: bool | None = None
    """Return each document's text too."""
    instruction: str | None = None
    """What "relevant" means for this list, or the name of a configured one ("@medical"); absent, null or empty: the
    configured default."""
    max_tokens_per_doc: PositiveInt | None = None
    """Cut every document to so many tokens (Cohere v2)."""
    truncation_side: Literal["left", "right"] | None = None
    """Which end of a too long document is cut off (vLLM): "right" is its end."""
    long_documents: LongDocuments | None = None
    """What happens to a document that does not fit the model: "truncate", or "windows" to score all of it."""
    window_aggregate: Aggregate | None = None
    """The document's score from its windows': "max", "mean" or "first"."""
    max_chunks_per_doc: PositiveInt | None = None
    """Score long documents in windows, at most so many for each (Cohere v1)."""
    overlap_tokens: NonNegativeInt | None = None
    """Tokens that neighbouring windows share."""
    raw_scores: bool | None = None
    """Return log-odds in place of scores in [0, 1]."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out documents with a lower relevance score; they are listed under `excluded`."""
    priority: Literal["interactive", "bulk"] | StrictInt | None = None
    """"interactive" (the default): somebody waits for the answer; "bulk": it may take its time. As a number (Cohere v2,
    vLLM), what is above 0 is bulk."""
    timeout_s: _Seconds | None = None
    """Seconds until an answer is due, within the service's own limit; also as header X-Reranker-Timeout-S."""
    allow_partial: bool | None = None
    """When time is up, answer with the documents scored so far; the others are listed under `unscored`."""


def parse(body: bytes, max_documents: int, timeout_header: str | None = None) -> tuple[RankRequest, RerankBody]:
    """Read a request.

    Args:
        body: As it came.
        max_documents: Documents one list may have.
        timeout_header: What the client's X-Reranker-Timeout-S says.

    Returns:
        The request in our own terms, and the body for what concerns the response only.

    Raises:
        InvalidRequestError: Names the first wrong field. Never quotes its value.
        RequestTooLargeError: More documents than one list may have.
    """
    try:
        parsed = RerankBody.model_validate_json(body)
    except ValidationError as error:
        raise _first_problem(error) from None
    if len(parsed.documents) > max_documents:
        raise RequestTooLargeError("documents", len(parsed.documents), max_documents, "documents")
    request = RankRequest(
        query=parsed.query,
        documents=tuple(item if isinstance(item, str) else item.text for item in parsed.documents),
        metadata=_metadata(parsed.documents),
        instruction=parsed.instruction or None,
        top_n=parsed.top_n or None,
        max_document_tokens=parsed.max_tokens_per_doc,
        truncation_side=_SIDES[parsed.truncation_side],
        long_documents=parsed.long_documents or ("windows" if parsed.max_chunks_per_doc else None),
        aggregate=parsed.window_aggregate,
        max_windows=parsed.max_chunks_per_doc,
        overlap_tokens=parsed.overlap_tokens,
        score_threshold=parsed.score_threshold,
        priority=_priority(parsed.priority),
        timeout_s=_timeout_s(parsed.timeout_s, timeout_header),
        allow_partial=bool(parsed.allow_partial),
    )
    return request, parsed


def _priority(asked: Literal["interactive", "bulk"] | int | None) -> Priority:
    if isinstance(asked, int):
        return "bulk" if asked > 0 else "interactive"
    return asked or "interactive"


def _timeout_s(in_body: float | None, header: str | None) -> float | None:
    if header is None:
        return in_body
    try:
        in_header = _SECONDS.validate_strings(header)
    except ValidationError:
        raise InvalidRequestError(TIMEOUT_HEADER, "must be a number of seconds above 0") from None
    return in_header if in_body is None else min(in_header, in_body)


def _metadata(documents: Sequence[str | DocumentObject]) -> tuple[Mapping[str, object], ...]:
    if all(isinstance(document, str) for document in documents):
        return ()
    return tuple({} if isinstance(document, str) else document.model_extra or {} for document in documents)


def respond(ranking: Ranking, request: RankRequest, body: RerankBody, *, request_id: str, model: str) -> dict[str, Any]:
    """Write the answer, as JSON (which is why there is an Any)."""
    results: list[dict[str, Any]] = []
    for ranked in ranking.results:
        score = ranked.log_odds if body.raw_scores else ranked.relevance_score
        result: dict[str, Any] = {"index": ranked.index, "relevance_score": score}
        if body.return_documents:  # left out otherwise, never null: several clients break on null
            result["document"] = {"text": request.documents[ranked.index]}
        if ranked.truncated:
            result["truncated"] = True
        if ranked.windows > 1:
            result["windows"] = ranked.windows
        results.append(result)
    answer = {
        "id": request_id,
        "object": "rerank",
        "model": model,
        "created": int(time.time()),
        "results": results,
        "usage": {"prompt_tokens": ranking.prompt_tokens, "total_tokens": ranking.prompt_tokens},
        "meta": {
            "api_version": {"version": "1"},
            # Cohere's unit: one query with up to 100 documents.
            "billed_units": {"search_units": -(-len(request.documents) // 100)},
            "tokens": {"input_tokens": ranking.prompt_tokens, "output_tokens": 0},
            "pairs": ranking.pairs,
            "truncated_documents": ranking.truncated_documents,
            "shards": ranking.shards,
            "replicas": ranking.replicas,
            "retries": ranking.retries,
            "hedges": ranking.hedges,
        },
    }
    if ranking.unscored:
        answer["unscored"] = [{"index": index} for index in ranking.unscored]
    if ranking.excluded:
        answer["excluded"] = [{"index": one.index, "rule": one.rule} for one in ranking.excluded]
    return answer


def error_body(error: RerankerError) -> dict[str, str]:
    """Write one of our errors; those about one field name it."""
    return error_fields(str(error), error.code, getattr(error, "field", ""))


def error_fields(message: str, code: str, field: str = "") -> dict[str, str]:
    """Write an error so that every client finds the sentence under the name it looks for.

    String values throughout: Jina's, Voyage's and xinference's clients show `detail`, Cohere's shows the body, TEI's
    shows `error`.
    """
    body = {"message": message, "detail": message, "error": message, "error_type": code}
    return body | {"field": field} if field else body


def _first_problem(error: ValidationError) -> InvalidRequestError:
    # A document that is neither a string nor an object brings a complaint per branch of the union, each with the
    # branch's name in its path: drop the names, and of the first place's complaints take the most exact.
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    here = [problem for problem in problems if problem["loc"][:2] == problems[0]["loc"][:2]]
    problem = max(here, key=lambda one: len(one["loc"]))
    path = [part for part in problem["loc"] if part not in ("str", "DocumentObject")]
    if path[:1] != ["documents"]:
        path = path[:1]  # nothing else is nested: what follows is the branch of a union
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    kind, message = problem["type"], problem["msg"]
    if kind == "json_invalid":
        return InvalidRequestError("", f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}")
    if kind == "model_type":
        return InvalidRequestError("", "the body must be a JSON object")
    if len(path) == 2 and path[0] == "documents":
        message = "Must be a string or an object with a string `text`"
    if kind in ("string_too_short", "string_pattern_mismatch", "too_short"):
        message = "Must not be empty"
    return InvalidRequestError(field, message[:1].lower() + message[1:])
