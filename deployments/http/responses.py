"""Answers: JSON throughout, the one way in which an error is written, and what the OpenAPI page says of each."""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.http import Backend
from reranker import dialects, errors
from reranker.dialects.answers import error_body
from reranker.dialects.base import (
    IGNORED_HEADER,
    JSON,
    STAGES_HEADER,
    TIMEOUT_HEADER,
    UNSCORED_HEADER,
    Dialect,
    RankingCall,
)
from reranker.record import RequestRecord
from reranker.types import Ranking

_PIECE_BYTES = 64 * 1024
_ENTRIES = 256
Piece: TypeAlias = bytes | memoryview


class LargeResponse(Response):
    """An answer that is sent in pieces: what its client has not read yet stays in hand, and has no copy made."""

    def __init__(self, pieces: Sequence[Piece], status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status_code=status, headers=headers, media_type="application/json")
        self.headers["content-length"] = str(sum(map(len, pieces)))
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        unsent = bytearray()
        for piece in self._pieces:
            for start in range(0, len(piece), _PIECE_BYTES):
                unsent += piece[start : start + _PIECE_BYTES]
                if len(unsent) >= _PIECE_BYTES:
                    await send({"type": "http.response.body", "body": bytes(unsent), "more_body": True})
                    unsent.clear()
        await send({"type": "http.response.body", "body": bytes(unsent)})


def reply(content: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    pieces = list(_written(content))
    if sum(map(len, pieces)) > _PIECE_BYTES:
        return LargeResponse(pieces, status, headers)
    return Response(b"".join(pieces), status, headers, media_type="application/json")


def _written(content: JSON) -> Iterator[Piece]:
    """Write JSON, of a long list some entries at a time: one call for 60 MB would keep the interpreter for 0.05 s."""
    if isinstance(content, list) and len(content) > _ENTRIES:
        for start in range(0, len(content), _ENTRIES):
            yield b"," if start else b"["
            yield memoryview(orjson.dumps(content[start : start + _ENTRIES]))[1:-1]
        yield b"]"
    elif isinstance(content, dict) and any(map(_has_a_long_list, content.values())):
        before = b"{"
        for name, value in content.items():
            yield before + orjson.dumps(name) + b":"
            yield from _written(value)
            before = b","
        yield b"}"
    else:
        yield orjson.dumps(content)


def _has_a_long_list(content: JSON) -> bool:
    if isinstance(content, list):
        return len(content) > _ENTRIES
    return isinstance(content, dict) and any(map(_has_a_long_list, content.values()))


def error_response(error: errors.RerankerError, dialect: Dialect | None = None, **more: JSON) -> Response:
    """Answer with an error, in a dialect's body for it or the one that suits every client; `more` goes into it."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowedError):
        headers["Allow"] = error.allowed
    body = dialect.error(error) if dialect else error_body(error)
    return reply(body | more, error.status_code, headers)


def ranking_response(request: Request, call: RankingCall, rankings: Sequence[Ranking]) -> Response:
    """Answer a call with the ranking of each of its lists."""
    record: RequestRecord = request.state.record
    backend: Backend = request.app.state.backend
    with record.stage("respond"):
        wanted = call.lists[0].model
        ours = wanted if wanted and wanted in backend.offers else backend.model
        model = rankings[0].model or ours  # in an update, what scored it is not always what we are to serve
        response = reply(call.write(rankings, model, record))
    response.headers["x-compute-tokens"] = str(sum(ranking.prompt_tokens for ranking in rankings))
    response.headers["server-timing"] = server_timing(record)
    ignored = call.ignored
    if len(backend.offers) > 1 and wanted and wanted != model:  # a model's or an adapter's name, misspelt?
        ignored = ("model", *ignored)
    if ignored:
        response.headers[IGNORED_HEADER] = ", ".join(ignored)
    if stages := rankings[0].stages:
        response.headers[STAGES_HEADER] = stages.first if stages.missed else f"{stages.first}, {stages.then}"
    if unscored := sum(len(ranking.unscored) for ranking in rankings):
        response.headers[UNSCORED_HEADER] = str(unscored)
    return response


def server_timing(record: RequestRecord) -> str:
    """Say what each stage took so far, in milliseconds, as W3C's Server Timing has it."""
    took_s = record.stages_s() | {"total": record.total_s}
    return ", ".join(f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in took_s.items())


_MEANINGS = {
    status: "\n\n".join(f"`{one.code}`: {one.__doc__}" for one in those)
    for status, those in itertools.groupby(errors.for_clients(), key=lambda one: one.status_code)
}
"""Which errors have a status, from the tree in errors.py."""


def describe(answer: Any, *failures: int, tag: str = "service") -> dict[str, Any]:  # Any: a type
    """A route's arguments for FastAPI's OpenAPI page; `failures` are statuses besides those of every route."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    responses: dict[int, dict[str, Any]] = {
        status: {"description": _MEANINGS[status], "content": content}
        for status in sorted({401, 414, 431, 500, *failures})
    }
    for status in responses.keys() & {429, 503}:
        responses[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {"response_model": answer, "response_description": "OK", "responses": responses, "tags": [tag]}


BODIES: dict[str, JSON] = {}
"""Schemas of requests by name, of all routes that were described: each stands once on the OpenAPI page."""
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "reranker",
    "description": "As the field `model`, which counts if both are there.",
}


def describe_ranking(path: str, *spoken: Dialect) -> dict[str, Any]:
    """The same for a ranking, with the dialects that are spoken at this path."""
    answer = functools.reduce(operator.or_, [one.answer for one in spoken])
    described = describe(answer, *(_MEANINGS.keys() - {405}), tag="ranking")
    stages = "Of a cascade's answer: the models that ranked it; the first alone where the second could not in time."
    said = "Fields of the request that could change the ranking and were not obeyed."
    partial = "Of a partial answer: documents that were not scored in time."
    described["responses"][200] = {
        "headers": {
            IGNORED_HEADER: {"schema": {"type": "string"}, "description": said},
            STAGES_HEADER: {"schema": {"type": "string"}, "description": stages},
            UNSCORED_HEADER: {"schema": {"type": "integer"}, "description": partial},
        }
    }
    first = (spoken[0].paths or dialects.SHARED_PATHS)[0]
    bodies = {one.body.__name__: one.body for one in spoken}
    BODIES.update((name, body.model_json_schema()) for name, body in bodies.items() if name not in BODIES)
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in bodies]
    examples = {name: {"summary": name, "value": value} for one in spoken for name, value in one.examples.items()}
    content = {"schema": {"anyOf": schemas} if len(schemas) > 1 else schemas[0], "examples": examples}
    every = {
        "name": "complete",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "As the field `complete`, which counts if both are there.",
    }
    timeout = {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "schema": {"type": "number", "minimum": 0.001},
        "description": "Seconds until an answer is due; the shorter of this and `timeout_s` counts.",
    }
    return described | {
        "summary": spoken[0].summary if path == first else f"As {first}{', every document back' * spoken[0].complete}.",
        "operation_id": re.sub(r"\W+", "_", path.strip("/")),
        "openapi_extra": {
            "parameters": [timeout, every, *([_MODEL] if "{model" in path else ())],
            "requestBody": {"required": True, "content": {"application/json": content}},
        },
    }
