"""Answers: JSON throughout, the one place where an error becomes a status, and what each stage took."""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from reranker.dialects.base import JSON, Dialect
from reranker.dialects.envelope import Problem, universal
from reranker.errors import RerankerError, UnauthorizedError


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


class Stages:
    """Times the stages of one request, one after the other, for the answer's `Server-Timing`."""

    def __init__(self) -> None:
        """Begin with the first stage."""
        self._took_s: dict[str, float] = {}
        self._began_s = time.perf_counter()

    def end(self, stage: str, apart_from: Mapping[str, float] | None = None) -> None:
        """End a stage, and begin the next.

        Args:
            stage: Its name.
            apart_from: Stages within it, with their seconds; they are reported by themselves.
        """
        now_s = time.perf_counter()
        within = apart_from or {}
        self._took_s |= within
        self._took_s[stage] = max(0.0, now_s - self._began_s - sum(within.values()))
        self._began_s = now_s

    def header(self) -> str:
        """Give them in milliseconds, as W3C's Server Timing has it."""
        return ", ".join(f"{stage};dur={took_s * 1e3:.2f}" for stage, took_s in self._took_s.items())
