"""Answers: JSON throughout, the one place where an error becomes a status, and what each stage took."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from reranker.dialects.base import JSON, Dialect
from reranker.dialects.envelope import Problem, universal
from reranker.errors import RerankerError, UnauthorizedError
from reranker.record import Timeline


def reply(content: JSON, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def refusal(error: RerankerError, dialect: Dialect | None = None) -> Response:
    """Answer with an error, in the dialect's envelope or the one that suits every client."""
    headers: dict[str, str] = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    problem = Problem.of(error)
    return reply(dialect.error(problem) if dialect else universal(problem), error.status_code, headers)


def server_timing(timeline: Timeline) -> str:
    """What each stage took so far, in milliseconds, as W3C's Server Timing has it."""
    took_s = timeline.stages_s() | {"total": timeline.total_s}
    return ", ".join(f"{stage};dur={seconds * 1e3:.2f}" for stage, seconds in took_s.items())
