"""The HTTP routes: each reads, asks the backend, and writes. Who may reach them is the business of `guard.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from deployments.http import openapi
from deployments.http.cache_routes import CacheBackend, add_cache_routes
from deployments.http.guard import Guard
from deployments.http.keys import Keyring
from deployments.http.metrics_routes import MetricsBackend, add_metrics_routes
from deployments.http.quota import Quotas
from deployments.http.reading import read_body
from deployments.http.replies import refusal, reply, server_timing
from deployments.http.search_routes import SearchBackend, add_search_routes
from deployments.ui.routes import UIBackend, add_ui_routes
from reranker.config import LimitsConfig
from reranker.dialects import choose
from reranker.dialects.base import JSON, Asked, Dialect, Served
from reranker.dialects.envelope import IGNORED_HEADER, TIMEOUT_HEADER, Problem, universal
from reranker.errors import NotReadyError, RerankerError
from reranker.record import Timeline
from reranker.search import dialect as search
from reranker.types import Caller, Ranking

_RAY_TIMEOUT_HEADER = "X-Request-Timeout-Seconds"
"""What Ray Serve's own proxy obeys; for clients that send it."""
_INLINE_BYTES = 64 * 1024
"""Bodies up to this size are parsed where they are: less than a millisecond, and a thread costs a tenth of one."""


class Backend(CacheBackend, MetricsBackend, SearchBackend, UIBackend, Protocol):
    """What the routes need of the service."""

    model: str
    """Its name, as answers give it."""
    adapters: tuple[str, ...]
    """Names of the adapters that a request can ask for as `model`."""

    def require_any_room(self, body_bytes: int) -> None:
        """Refuse a body that could not be let in, before it is parsed."""
        ...

    async def rank(self, asked: Asked, body_bytes: int, caller: Caller, timeline: Timeline) -> Sequence[Ranking]:
        """Rank the lists of a request, and note how that goes."""
        ...

    async def load(self) -> JSON:
        """What is in flight."""
        ...

    async def live_replicas(self) -> int:
        """How many engines can score; raises NotReadyError when there is none."""
        ...

    async def replicas_loading(self) -> list[JSON]:
        """What each replica that is starting does, and for how many seconds."""
        ...

    def info(self) -> JSON:
        """What TEI says of itself at /info."""
        ...


def build_api(backend: Backend, limits: LimitsConfig, keys: Keyring) -> FastAPI:
    """Make the application.

    Args:
        backend: Does the work.
        limits: What one request may have.
        keys: Who may use it.
    """
    quotas = Quotas()
    api = FastAPI(
        title="Reranker",
        description=openapi.DESCRIPTION,
        version=openapi.VERSION,
        dependencies=[Depends(openapi.KEY)],
        middleware=[Middleware(Guard, keys=keys, quotas=quotas, limits=limits)],
        exception_handlers={HTTPException: _framework_error},
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    started_s = int(time.time())

    def ranking_route(dialect: Dialect | None) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def rank(request: Request) -> Response:
            caller: Caller = request.state.caller
            timeline: Timeline = request.state.timeline
            timeline.dialect = dialect.name if dialect else ""
            asked: Asked | None = None
            try:
                with timeline.stage("read"):
                    body = await read_body(request, limits)
                timeline.body_bytes = len(body)
                with timeline.stage("admit"):
                    backend.require_any_room(len(body))
                with timeline.stage("parse"):
                    timeout = request.headers.get(TIMEOUT_HEADER, request.headers.get(_RAY_TIMEOUT_HEADER))
                    arguments = (body, dialect, limits, timeout)
                    if len(body) <= _INLINE_BYTES:
                        asked = choose.parse(*arguments)
                    else:
                        asked = await asyncio.to_thread(choose.parse, *arguments)
                note_asked(timeline, asked)
                size_bytes = len(body)
                if asked.dialect is search.DIALECT:
                    asked = await backend.retrieve(asked, timeline)
                    note_asked(timeline, asked)
                    size_bytes += asked.retrieved.text_bytes if asked.retrieved else 0
                if asked.to_rank:
                    timeline.rankings = rankings = await backend.rank(asked, size_bytes, caller, timeline)
                else:
                    rankings = [Ranking()]
            except RerankerError as error:
                timeline.error = error.code
                refused = refusal(error, asked.dialect if asked else dialect)
                refused.headers["server-timing"] = server_timing(timeline)
                return refused
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            with timeline.stage("respond"):
                quotas.spend(caller, sum(ranking.prompt_tokens for ranking in rankings))
                wanted = asked.lists[0].model
                model = wanted if wanted and wanted in backend.adapters else backend.model
                served = Served(timeline.request_id, model, int(time.time()), timeline)
                answer = reply(asked.write(rankings, served))
            answer.headers["x-compute-tokens"] = str(sum(ranking.prompt_tokens for ranking in rankings))
            answer.headers["server-timing"] = server_timing(timeline)
            ignored = asked.ignored
            if backend.adapters and wanted and wanted != model:  # an adapter's name, misspelt?
                ignored = ("model", *ignored)
            if ignored:
                answer.headers[IGNORED_HEADER] = ", ".join(ignored)
            return answer

        return rank

    for path, dialect in choose.PATHS.items():
        api.add_api_route(path, ranking_route(dialect), methods=["POST"], **openapi.of_ranking(path, dialect))
    if backend.searches:
        add_search_routes(api, backend, ranking_route(search.DIALECT))

    @api.head("/health", include_in_schema=False)
    @api.get("/health", **openapi.HEALTH)
    async def health() -> Response:
        """200 once an engine can score, 503 before."""
        try:
            live = await backend.live_replicas()
        except NotReadyError as error:
            replicas = await backend.replicas_loading()
            answer = universal(Problem.of(error)) | {"status": error.status, "replicas": replicas}
            return reply(answer, error.status_code, {"Retry-After": str(error.retry_after_s)})
        return reply({"status": "ok", "model": backend.model, "replicas": live})

    @api.get("/-/healthz", include_in_schema=False)
    async def alive() -> Response:
        """Where KubeRay looks whether this pod takes requests, in the words of Serve's proxy."""
        return Response("success", media_type="text/plain")

    @api.get("/v1/load", **openapi.LOAD)
    async def load() -> Response:
        """What is in flight here, and what every replica has to do. Checks the books on the way."""
        return reply(await backend.load())

    def model_card(name: str) -> JSON:
        # `model_type` and `model_name` are for xinference's client; `parent` is what vLLM gives an adapter
        card = {"id": name, "object": "model", "created": started_s, "owned_by": "reranker"}
        parent = {"parent": backend.model} if name in backend.adapters else {}
        return card | parent | {"model_type": "rerank", "model_name": name}

    @api.get("/v1/models", **openapi.MODELS)
    async def models() -> Response:
        """The model this service has, and its adapters."""
        return reply({"object": "list", "data": [model_card(name) for name in (backend.model, *backend.adapters)]})

    @api.get("/v1/models/{model_id:path}", **openapi.MODEL)
    async def model(model_id: str) -> Response:
        """The model of this name."""
        known = (backend.model, *backend.adapters)
        if model_id not in known:
            raise HTTPException(404, f"no such model; this service has {', '.join(known)}")
        return reply(model_card(model_id))

    add_cache_routes(api, backend)
    add_metrics_routes(api, backend, keys)
    add_ui_routes(api, backend, limits)

    @api.get("/v1/cluster/auth", **openapi.AUTH)
    async def auth() -> Response:
        """Whether a key is needed, as xinference's client asks."""
        return reply({"auth": keys.needed})

    @api.get("/info", **openapi.INFO)
    async def info() -> Response:
        """What Hugging Face's TEI says of itself."""
        return reply(backend.info())

    @api.get("/", include_in_schema=False)
    async def root() -> Response:
        """Say what this is, to whoever opens it in a browser."""
        return reply({"service": "reranker", "model": backend.model, "rerank": "POST /v1/rerank", "docs": "/docs"})

    return api


def note_asked(timeline: Timeline, asked: Asked) -> None:
    """Note what is asked for."""
    timeline.dialect = asked.dialect.name
    timeline.lists, timeline.documents = len(asked.lists), sum(len(one.documents) for one in asked.lists)
    timeline.priority = asked.lists[0].priority


async def _framework_error(request: Request, error: Exception) -> Response:
    """Give the framework's own errors (404, 405) the same body as ours."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these only; for the type checker
    said, headers = str(error.detail), error.headers
    if error.status_code == 404 and said == "Not Found":
        said = f"no such path; rerank at POST /v1/rerank, docs at {request.base_url}docs"
    elif error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))  # of all routes with this path; the framework names the first's
        said, headers = f"wrong method for this path; it takes {allowed}", {"Allow": allowed}
    problem = Problem(said, f"http_{error.status_code}", error.status_code)
    request.state.timeline.error = problem.code
    return reply(universal(problem), error.status_code, headers)


def _methods(request: Request) -> set[str]:
    routes = [
        one for one in request.app.routes if isinstance(one, Route) and one.matches(request.scope)[0] != Match.NONE
    ]
    return {method for one in routes for method in one.methods or ()}
