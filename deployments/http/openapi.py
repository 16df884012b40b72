"""What the OpenAPI page says of each route: bodies with examples that work when pasted, answers, and every error."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi.security import HTTPBearer

from reranker import errors
from reranker.dialects import choose
from reranker.dialects.base import Dialect
from reranker.dialects.envelope import IGNORED_HEADER, TIMEOUT_HEADER

VERSION = importlib.metadata.version("reranker")
DESCRIPTION = """One query, N documents: each document's relevance score, best first.

Point the client you have at this service: the dialects of Cohere, Jina, Voyage, vLLM, Infinity, xinference and TEI are
told apart by the body. Errors are JSON on every path and status.
"""
KEY = HTTPBearer(
    scheme_name="API key", description="Where the service has API keys; `guard.py` checks them.", auto_error=False
)
"""For the page only: it has a field for a key then."""
_ERROR = {
    "type": "object",
    "required": ["message", "detail", "error", "error_type"],
    "properties": {
        "message": {"type": "string", "description": "A sentence a person can act on."},
        "detail": {"type": "string", "description": "The same, under another client's name for it."},
        "error": {"description": "The same; an object with `message`, `type`, `param` and `code` on /score."},
        "error_type": {"type": "string", "description": "What kind of error; does not change with the wording."},
        "field": {"type": "string", "description": "The field of the request it is about: documents[3].text."},
    },
}
Described = dict[str, Any]  # Any: arguments of FastAPI's, and JSON schemas


def _meanings() -> dict[int, str]:
    """Say of each status which errors have it, from the tree in errors.py."""
    meanings: dict[int, list[str]] = {404: ["`http_404`: No such path, or no such model."]}
    for one in errors.for_clients():
        meanings.setdefault(one.status_code, []).append(f"`{one.code}`: {(one.__doc__ or '').splitlines()[0]}")
    return {status: "\n\n".join(lines) for status, lines in meanings.items()}


MEANINGS = _meanings()
_EVERYWHERE = (401, 414, 429, 431, 500)
_RANKING = (400, 401, 403, 408, 413, 414, 415, 429, 431, 500, 503, 504)


def _responses(success: Described, failures: tuple[int, ...]) -> dict[int | str, Described]:
    content = {"application/json": {"schema": _ERROR}}
    responses: dict[int | str, Described] = {
        status: {"description": MEANINGS.get(status, "A bug of ours."), "content": content} for status in failures
    }
    for status in {429, 503} & set(failures):
        responses[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    responses[200] = {"description": "OK", "content": {"application/json": {"schema": success}}}
    return responses


def _object(required: dict[str, Described], **optional: Described) -> Described:
    return {"type": "object", "required": list(required), "properties": required | optional}


_INTEGER, _NUMBER, _STRING, _BOOLEAN = ({"type": kind} for kind in ("integer", "number", "string", "boolean"))
_MARKS = {
    "truncated": _BOOLEAN | {"description": "The document was too long and lost tokens; absent otherwise."},
    "windows": _INTEGER | {"description": "Prompts it took to score a long document; absent when it was one."},
}
_LINE = {"index": _INTEGER | {"description": "Position in the request's documents."}}
_SCORE = _NUMBER | {"description": "In [0, 1]; log-odds with `raw_scores`."}
_USAGE = _object(
    {"prompt_tokens": _INTEGER, "total_tokens": _INTEGER},
    deduplicated_pairs=_INTEGER,
    cached_documents=_INTEGER,
    coalesced_documents=_INTEGER,
)
_LEFT_OUT = {
    "excluded": {"type": "array", "items": _object({**_LINE, "rule": _STRING})},
    "unscored": {"type": "array", "items": _object(_LINE)},
}
_HEAD = {"id": _STRING, "object": _STRING, "model": _STRING, "created": _INTEGER}


def _list_of(item: Described) -> Described:
    return {"type": "array", "items": item}


_RANKED = _object({**_LINE, "relevance_score": _SCORE}, document={"description": "When asked for."}, **_MARKS)
_ANSWERS: dict[str, Described] = {
    "rerank": _object({**_HEAD, "results": _list_of(_RANKED), "usage": _USAGE}, meta={"type": "object"}, **_LEFT_OUT),
    "voyage": _object({**_HEAD, "data": _list_of(_RANKED), "usage": _USAGE}, **_LEFT_OUT),
    "tei": _list_of(_object({**_LINE, "score": _SCORE}, text=_STRING)),
    "score": _object(
        {**_HEAD, "data": _list_of(_object({**_LINE, "object": _STRING, "score": _SCORE}, **_MARKS)), "usage": _USAGE},
        **_LEFT_OUT,
    ),
}
_ANSWERS["infinity"] = _ANSWERS["rerank"]
_PLACE = {"id": _STRING | {"description": "Of the document."}, "chunk": _INTEGER | {"description": "Of it, from 0."}}
_FOUND = _object(
    {**_PLACE, "first_stage_score": _NUMBER, "first_stage_rank": _INTEGER | {"description": "From 1."}},
    relevance_score=_SCORE | {"description": "In [0, 1]; log-odds with `raw_scores`; absent with `rerank: false`."},
    text=_STRING,
    title=_STRING,
    start=_INTEGER | {"description": "Character of the document at which the text begins."},
    metadata={"type": "object"},
    **_MARKS,
)
_ANSWERS["search"] = _object(
    {**_HEAD, "index": _STRING, "version": _STRING, "first_stage": _STRING, "candidates": _INTEGER}
    | {"results": _list_of(_FOUND), "usage": _USAGE, "timings": {"type": "object"}},
    meta={"type": "object"},
    excluded=_list_of(_object({**_PLACE, "rule": _STRING})),
    unscored=_list_of(_object(_PLACE)),
)
_SUMMARIES = {
    "/v1/rerank": "Rank documents by their relevance to a query, best first.",
    "/score": "Score pairs, in their order (vLLM).",
    "/infinity/rerank": "The same in Infinity's dialect: documents come back as strings.",
    "/voyage/v1/rerank": "The same in Voyage's dialect, also where `top_k` is not set.",
    "/v1/search": "Find what answers a query in an index, and rank it.",
    "/search": "Another path of /v1/search.",
}


def of_ranking(path: str, dialect: Dialect | None) -> Described:
    """Describe a ranking route: the arguments for FastAPI.

    Args:
        path: Its path. Those that are only other names of one are not shown.
        dialect: Its dialect. None: the body says which.
    """
    dialects = (dialect,) if dialect else tuple(one for one in choose.DIALECTS if one.name != "score")
    examples = {name: {"summary": name, "value": value} for one in dialects for name, value in one.examples.items()}
    schema = (
        {"anyOf": [one.body.model_json_schema() for one in dialects]}
        if len(dialects) > 1
        else dialects[0].body.model_json_schema()
    )
    success = {"anyOf": [_ANSWERS[one.name] for one in dialects]}
    responses = _responses(success, _RANKING)
    responses[200]["headers"] = {
        IGNORED_HEADER: {
            "schema": _STRING,
            "description": "Fields of the request that could change the ranking and were not obeyed.",
        }
    }
    return {
        "summary": _SUMMARIES.get(path, f"Another path of {'/score' if dialect else '/v1/rerank'}."),
        "operation_id": path.strip("/").replace("/", "_"),
        "responses": responses,
        "tags": ["ranking"],
        "openapi_extra": {
            "parameters": [
                {
                    "name": TIMEOUT_HEADER,
                    "in": "header",
                    "schema": {"type": "number", "minimum": 0.001},
                    "description": "Seconds until an answer is due; the shorter of this and `timeout_s` counts.",
                }
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema, "examples": examples}},
            },
        },
    }


def _get(success: Described, *failures: int) -> Described:
    return {"responses": _responses(success, (*_EVERYWHERE, *failures)), "tags": ["service"]}


_CARD = _object({"id": _STRING, "object": _STRING, "created": _INTEGER, "owned_by": _STRING, "model_type": _STRING})
HEALTH = _get(_object({"status": _STRING, "model": _STRING, "replicas": _INTEGER}), 503)
LOAD = _get(
    _object({"lists": _INTEGER, "tokens": _INTEGER, "shards": _INTEGER, "replicas": _list_of({"type": "object"})})
)
CACHE = _get(
    _object(
        {"enabled": _BOOLEAN},
        ingress_replicas=_INTEGER,
        hit_rate=_NUMBER | {"description": "Share of the documents looked up that were known, or were being scored."},
        hits=_INTEGER,
        misses=_INTEGER,
        coalesced=_INTEGER,
        memory={"type": "object"},
        redis={"type": "object"},
    ),
    403,
    503,
)
METRICS = _get({"type": "string"}, 403, 404)
METRICS["responses"][200]["content"] = {"text/plain": {"schema": {"type": "string"}}}
MODELS = _get(_object({"object": _STRING, "data": _list_of(_CARD)}))
MODEL = _get(_CARD, 404)
INDEXES = _get(_object({"object": _STRING, "data": _list_of(_object({"name": _STRING, "available": _BOOLEAN}))}), 503)
AUTH = _get(_object({"auth": _BOOLEAN}))
INFO = _get(_object({"model_id": _STRING, "model_type": {"type": "object"}, "max_input_length": _INTEGER}))
