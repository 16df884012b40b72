"""/v1/search, and what there is to search: only where the service has an index."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from deployments.http import Backend
from deployments.http.requests import note_asked, read_asked
from deployments.http.responses import describe, describe_ranking, ranking_response, reply
from reranker.dialects.base import JSON, Asked
from reranker.record import Timeline
from reranker.search import dialect as search
from reranker.types import Ranking


class SearchBackend(Backend, Protocol):
    """What the routes need of the service."""

    searches: bool
    """Whether there is an index; else the routes are not there."""

    async def retrieve(self, asked: Asked, timeline: Timeline) -> Asked:
        """Find the documents that a search is to rank, and note how long that took."""
        ...

    async def indexes(self) -> JSON:
        """Say what there is to search."""
        ...


class IndexList(TypedDict):
    """The indexes, the default first."""

    object: str
    data: list[dict[str, Any]]


def add_search_routes(api: FastAPI, backend: SearchBackend) -> None:
    """Add the routes, if there is an index."""
    if not backend.searches:
        return

    async def answer(request: Request) -> Response:
        record: Timeline = request.state.timeline
        asked = await backend.retrieve(await read_asked(request, search.DIALECT), record)
        note_asked(record, asked)
        rankings = [Ranking()]
        if asked.to_rank:
            size_bytes = record.body_bytes + (asked.retrieved.text_bytes if asked.retrieved else 0)
            record.rankings = rankings = [*await backend.rank(asked, size_bytes, request.state.caller, record)]
        return ranking_response(request, asked, rankings)

    for path in search.PATHS:
        api.add_api_route(path, answer, methods=["POST"], **describe_ranking(path, search.DIALECT))

    @api.get("/v1/indexes", **describe(IndexList, 503))
    async def indexes() -> Response:
        """What there is to search, the default first: versions, sizes, first stages."""
        return reply({"object": "list", "data": await backend.indexes()})
