"""/v1/cache: what the score cache holds and has done, and forgetting it. For admin keys only."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.http import openapi
from deployments.http.replies import reply
from reranker.dialects.base import JSON
from reranker.errors import ForbiddenError
from reranker.types import Caller


class CacheBackend(Protocol):
    """What the routes need of the service."""

    async def cache_report(self) -> JSON:
        """What the caches of all ingress replicas hold and have done."""
        ...

    async def clear_cache(self) -> None:
        """Forget every score, in all ingress replicas and in what they share; raises CacheUnavailableError."""
        ...


def add_cache_routes(api: FastAPI, backend: CacheBackend) -> None:
    """Add the routes."""

    @api.get("/v1/cache", **openapi.CACHE)
    async def report(request: Request) -> Response:
        """What the score cache holds, its hit rate, and how Redis does. Of all ingress replicas together."""
        _require_admin(request)
        return reply(await backend.cache_report())

    @api.delete("/v1/cache", **openapi.CACHE)
    async def clear(request: Request) -> Response:
        """Forget every score, in all ingress replicas and in Redis; then as GET."""
        _require_admin(request)
        await backend.clear_cache()
        return reply(await backend.cache_report())


def _require_admin(request: Request) -> None:
    caller: Caller = request.state.caller
    if not caller.admin:
        raise ForbiddenError
