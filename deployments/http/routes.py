"""The HTTP routes: each reads, asks the backend, and answers. What all of them share is in `middleware.py`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NotRequired, Required, TypeAlias

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import Field, TypeAdapter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from typing_extensions import TypedDict

from deployments.http import SERVICE_HEADER, VERSION, Backend
from deployments.http.access import Keyring
from deployments.http.guard import BytesInHand
from deployments.http.middleware import Observer, RequestMiddleware
from deployments.http.playground import playground_router
from deployments.http.quotas import Quotas
from deployments.http.requests import INLINE_BYTES, read_call
from deployments.http.responses import BODIES, describe, describe_ranking, error_response, ranking_response, reply
from deployments.http.search import Search, search_router
from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.dialects.answers import ErrorBody
from reranker.dialects.base import IGNORED_HEADER, STAGES_HEADER, UNSCORED_HEADER, Dialect
from reranker.dialects.tei import TeiInfo
from reranker.errors import ForbiddenError, InvalidRequestError, LeavingError, NotFoundError, NotReadyError
from reranker.model.verified import Verified
from reranker.record import RequestRecord

_DESCRIPTION = """One query, N documents: each document's relevance score, best first.

Point the client you have at this service: the dialects of Cohere, Jina, Voyage, vLLM, Infinity, xinference and TEI are
told apart by the body. Errors are JSON on every path and status.
"""
_EXPOSED = (
    IGNORED_HEADER,
    STAGES_HEADER,
    UNSCORED_HEADER,
    "Retry-After",
    "Server-Timing",
    "X-Compute-Tokens",
    "X-Request-Id",
)
_STARTED_S = int(time.time())

router = APIRouter()


class Health(TypedDict):
    """A service that can score."""

    status: str
    model: str
    replicas: int
    models: NotRequired[Annotated[dict[str, dict[str, Any]], Field(description="Of several models, how each is.")]]


class Load(TypedDict):
    """What is in flight in one ingress, and in every replica."""

    lists: int
    tokens: int
    shards: int
    replicas: list[dict[str, Any]]
    models: NotRequired[
        Annotated[dict[str, dict[str, int]], Field(description="Of several models, what is in flight.")]
    ]


class ModelCard(TypedDict):
    """A model, an adapter of one, or a cascade of two."""

    id: str
    object: str
    created: Annotated[int, Field(description="Unix time.")]
    owned_by: str
    parent: NotRequired[Annotated[str, Field(description="The model that an adapter is of, as vLLM gives it.")]]
    root: NotRequired[Annotated[str, Field(description="Of one model of several: its checkpoint, as vLLM gives it.")]]
    cascade: NotRequired[Annotated[list[str], Field(description="Of a cascade: its models, in their order.")]]
    model_type: Annotated[str, Field(description="For xinference's client, as `model_name`.")]
    model_name: str
    verified: NotRequired[
        Annotated[Verified, Field(description="What `reranker verify` last found of this model, if it did.")]
    ]


class ModelList(TypedDict):
    """What a request can ask for as `model`."""

    object: str
    data: list[ModelCard]


class CacheReport(TypedDict, total=False):
    """What the score caches hold and have done."""

    enabled: Required[bool]
    ingress_replicas: int
    hit_rate: Annotated[float | None, Field(description="Share of what was looked up that was known or being scored.")]
    hits: int
    misses: int
    coalesced: int
    memory: dict[str, Any]
    redis: dict[str, Any]


_With = TypedDict("_With", {"with": Annotated[str, Field(description="Who ranked them too.")]})  # a word of Python's


class ShadowReport(_With):
    """How two rankings of the same lists compare; each mean and share with its 95 % interval, from `low` to `high`."""

    of: Annotated[str, Field(description="Whose answers.")]
    instruction: str | None
    share: Annotated[float, Field(description="Of the lists, as configured.")]
    since: Annotated[int, Field(description="Unix time: the oldest ingress began to count.")]
    lists: Annotated[int, Field(description="That were compared.")]
    first_place_differs: Annotated[dict[str, Any], Field(description="Of how many lists: lists, share, low, high.")]
    rank_correlation: Annotated[dict[str, Any], Field(description="Spearman's: mean, low, high.")]
    overlap_at_10: Annotated[dict[str, Any], Field(description="Of lists of more than ten: mean, low, high.")]
    by_size: Annotated[dict[str, dict[str, Any]], Field(description="The same: lists of 2-10, 11-100, >100.")]
    dropped: Annotated[dict[str, int], Field(description="Lists that were drawn and not compared, by the reason.")]


class CompareReport(TypedDict):
    """What the shadows of all ingress replicas have found."""

    ingress_replicas: int
    shadows: list[ShadowReport]


class _Api(FastAPI):
    def setup(self) -> None:
        """Serve the description, and the page that shows it, as bytes made once: anybody may ask, without a key."""
        self._made: dict[str, bytes] = {}
        self.add_route("/openapi.json", self._description, include_in_schema=False)
        self.add_route("/docs", self._docs, include_in_schema=False)

    async def _description(self, request: Request) -> Response:
        if "openapi" not in self._made:
            self._made["openapi"] = bytes(JSONResponse(self.openapi()).body)
        return Response(self._made["openapi"], media_type="application/json")

    async def _docs(self, request: Request) -> Response:
        if "docs" not in self._made:
            page = get_swagger_ui_html(openapi_url="/openapi.json", title=self.title, oauth2_redirect_url=None)
            self._made["docs"] = bytes(page.body)
        return Response(self._made["docs"], media_type="text/html")

    def openapi(self) -> dict[str, Any]:  # Any: JSON
        """Add what all routes share: the bodies, and a field for the key, which the middleware checks."""
        schema = super().openapi()
        key = {"type": "http", "scheme": "bearer", "description": "Where the service has API keys."}
        schema["components"]["securitySchemes"] = {"API key": key}
        schema["components"]["schemas"] |= {"ErrorBody": TypeAdapter(ErrorBody).json_schema(), **BODIES}
        return schema | {"security": [{"API key": []}]}


def build_api(
    backend: Backend,
    limits: LimitsConfig,
    keys: Keyring,
    observers: Sequence[Observer] = (),
    count: Observer | None = None,
    quotas: Quotas | None = None,
    memory: BytesInHand | None = None,
) -> FastAPI:
    """Make the application. The arguments after `backend` are those of `RequestMiddleware`."""
    api = _Api(
        title="Reranker",
        description=_DESCRIPTION,
        version=VERSION,
        exception_handlers={HTTPException: _raise},
        redoc_url=None,
        redirect_slashes=False,  # the middleware has seen to them
        swagger_ui_oauth2_redirect_url=None,
    )
    api.state.backend, api.state.limits, api.state.keys = backend, limits, keys
    api.router.routes.extend(router.routes)  # as they are: to include them makes the type of every answer once more
    if isinstance(backend.search, Search):
        api.include_router(search_router(backend.search))
    api.include_router(playground_router(backend.open_page, limits))
    ranking_paths = [one.path for one in api.routes if isinstance(one, APIRoute) and "ranking" in one.tags]
    api.add_middleware(
        RequestMiddleware, limits, keys, ranking_paths, observers, count, quotas, memory, lambda: backend.draining
    )
    if keys.cors_origins:
        api.add_middleware(_Cors, keys.cors_origins, ("GET", "POST"), ("*",), expose_headers=_EXPOSED)
    return api


class _Cors(CORSMiddleware):
    """Answers browsers that ask whether a page may use the service. Around all else: they send no key with that."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return error_response(
            InvalidRequestError("Origin", "pages from there may not do this; see access.cors_origins")
        )


async def _raise(request: Request, error: Exception) -> Response:
    raise error  # the framework's own, which the middleware answers


async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _backend_for_admins(request: Request) -> Backend:
    if not request.state.caller.admin:
        raise ForbiddenError
    return await _backend(request)


_Backend: TypeAlias = Annotated[Backend, Depends(_backend)]
_AdminsBackend: TypeAlias = Annotated[Backend, Depends(_backend_for_admins)]


def _ranking(dialect: Dialect | None) -> Callable[[Request], Awaitable[Response]]:
    async def rank(request: Request) -> Response:
        call = await read_call(request, dialect)
        record: RequestRecord = request.state.record
        backend: Backend = request.app.state.backend
        record.rankings = await backend.rank(call.lists, request.state.caller, record)
        if record.body_bytes <= INLINE_BYTES:
            return ranking_response(request, call, record.rankings)
        return await backend.threads.run(record.caller, ranking_response, request, call, record.rankings)

    return rank


for _path, _dialect in PATHS.items():
    _spoken = (_dialect,) if _dialect else tuple(one for one in DIALECTS if one.shares_paths)
    router.add_api_route(_path, _ranking(_dialect), methods=["POST"], **describe_ranking(_path, *_spoken))


@router.get("/v1/health/ready", **describe(Health, 503))  # NVIDIA's clients
@router.get("/.well-known/ready", **describe(Health, 503))  # Weaviate
@router.get("/health", **describe(Health, 503))
async def health(backend: _Backend) -> Response:
    """200 once an engine of the default model can score, 503 before and while this ingress ends."""
    try:
        if backend.draining:
            raise LeavingError
        live = await backend.live_replicas()
        response = reply({"status": "ok", "model": backend.model, "replicas": live, **await _of_each_model(backend)})
    except NotReadyError as error:
        loading, each = await backend.replicas_loading(), await _of_each_model(backend)
        response = error_response(error, status=error.status, replicas=loading, **each)
    response.headers[SERVICE_HEADER] = backend.service
    return response


async def _of_each_model(backend: Backend) -> dict[str, Any]:  # Any: JSON
    states = await backend.models()
    return {"models": states} if states else {}


@router.get("/v1/health/live", include_in_schema=False)  # NVIDIA's clients
@router.get("/.well-known/live", include_in_schema=False)  # Weaviate
@router.get("/-/healthz", include_in_schema=False)
async def alive(backend: _Backend) -> Response:
    """Where Kubernetes looks whether this pod takes requests, in the words of Serve's proxy."""
    if backend.draining:
        return Response("draining", status_code=503, media_type="text/plain")
    return Response("success", media_type="text/plain")


@router.get("/v1/load", **describe(Load, 503))
async def load(backend: _Backend) -> Response:
    """What is in flight here, and what every replica has to do. Checks the sums on the way."""
    return reply(await backend.load())


@router.get("/v1/models", **describe(ModelList))
async def models(backend: _Backend) -> Response:
    """The models this service has, the default first, their adapters, and its cascades."""
    return reply({"object": "list", "data": list((await _model_cards(backend)).values())})


@router.get("/v1/models/{model_id:path}", **describe(ModelCard, 404))
async def model(backend: _Backend, model_id: str) -> Response:
    """The model of this name."""
    cards = await _model_cards(backend)
    if model_id not in cards:
        raise NotFoundError(f"no such model; this service has {', '.join(cards)}")
    return reply(cards[model_id])


async def _model_cards(backend: Backend) -> dict[str, ModelCard]:
    verified = await backend.verified()
    cards: dict[str, ModelCard] = {}
    for name, offer in backend.offers.items():
        card: ModelCard = {
            "id": name,
            "object": "model",
            "created": _STARTED_S,
            "owned_by": "reranker",
            "model_type": "rerank",
            "model_name": name,
        }
        if offer.root:
            card["root"] = offer.root
        if offer.parent:
            card["parent"] = offer.parent
        if offer.cascade:
            card["cascade"] = list(offer.cascade)
        if name in verified:
            card["verified"] = verified[name]
        cards[name] = card
    return cards


@router.get("/v1/compare", **describe(CompareReport, 503))
async def comparison(backend: _Backend) -> Response:
    """How the rankings of each shadow compare with the answers. Of all ingress replicas together."""
    return reply(await backend.comparison())


@router.get("/v1/cache", **describe(CacheReport, 403, 503))
async def cache_report(backend: _AdminsBackend) -> Response:
    """What the score cache holds, its hit rate, and how Redis does. Of all ingress replicas together."""
    return reply(await backend.cache_report())


@router.delete("/v1/cache", **describe(CacheReport, 403, 503))
async def clear_cache(backend: _AdminsBackend) -> Response:
    """Forget every score, in all ingress replicas and in Redis; then as GET."""
    await backend.clear_cache()
    return reply(await backend.cache_report())


@router.get("/metrics", response_class=PlainTextResponse, **describe(None, 403, 404, 503))
async def metrics(request: Request, backend: _Backend) -> Response:
    """The series of all processes on this node, as Prometheus text. For admins and keys with `metrics`."""
    keys: Keyring = request.app.state.keys
    if keys.needed and not (keys.open_metrics or request.state.caller.metrics or request.state.caller.admin):
        raise ForbiddenError
    text = await backend.metrics_text()
    if text is None:
        raise NotFoundError("nothing is counted: observability.metrics is false")
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


@router.get("/v1/cluster/auth", **describe(dict[str, bool]))
async def auth(request: Request) -> Response:
    """Whether a key is needed, as xinference's client asks."""
    return reply({"auth": request.app.state.keys.needed})


@router.get("/meta", include_in_schema=False)  # Weaviate, which shows it
@router.get("/info", **describe(TeiInfo))
async def info(backend: _Backend) -> Response:
    """What Hugging Face's TEI says of itself."""
    return reply(backend.info())


@router.get("/", include_in_schema=False)
async def root(backend: _Backend) -> Response:
    """Say what this is, to whoever opens it in a browser."""
    return reply({"service": "reranker", "model": backend.model, "rerank": "POST /v1/rerank", "docs": "/docs"})
