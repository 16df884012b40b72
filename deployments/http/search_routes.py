"""/v1/search, and what there is to search: only where the service has an index."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.http import openapi
from deployments.http.replies import reply
from reranker.dialects.base import JSON, Asked
from reranker.record import Timeline
from reranker.search import dialect as search


class SearchBackend(Protocol):
    """What the routes need of the service."""

    searches: bool
    """Whether there is an index; else the routes are not there."""

    async def retrieve(self, asked: Asked, timeline: Timeline) -> Asked:
        """Find the documents that a search is to rank, and note how long that took."""
        ...

    async def indexes(self) -> JSON:
        """Say what there is to search."""
        ...


def add_search_routes(
    api: FastAPI, backend: SearchBackend, answer: Callable[[Request], Coroutine[Any, Any, Response]]
) -> None:
    """Add the routes.

    Args:
        api: Where to.
        backend: Says what indexes there are.
        answer: Answers a search.
    """
    for path in search.PATHS:
        api.add_api_route(path, answer, methods=["POST"], **openapi.of_ranking(path, search.DIALECT))

    @api.get("/v1/indexes", **openapi.INDEXES)
    async def indexes() -> Response:
        """What there is to search, the default first: versions, sizes, first stages."""
        return reply({"object": "list", "data": await backend.indexes()})
