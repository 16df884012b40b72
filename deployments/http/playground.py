"""The playground's paths, and the way to its application: through Serve's handle, on whatever node it is.

It has no port of its own, so it needs no key, certificate or network policy of its own (decision 0008). Gradio has more
paths than the page needs: files, uploads, a proxy, an API of every event. No key guards them, so what is not named
here does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, cast

from fastapi import APIRouter, Request
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from ray.serve.schema import DeploymentStatus
from starlette.responses import RedirectResponse, Response, StreamingResponse

from deployments.http.requests import read_body
from deployments.http.responses import error_response
from reranker.config import LimitsConfig
from reranker.errors import NoPlaygroundError, NotFoundError, PlaygroundUnavailableError

UI_PATH = "/ui"
UI_DEPLOYMENT = "Playground"

_MAX_BODY_BYTES = 8 * 2**20  # a browser sends a list of documents at most
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/(?:assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(?:startup-events|app_id|theme\.css|queue/data|heartbeat/[\w-]+)"
)
_WRITTEN = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)")
_IMMUTABLE = re.compile(r"/assets/.*-[\w-]{8,}\.\w+")  # files whose name changes with their content
_PREFIX = re.compile(r"(?:/[\w.~-]+)+")
_PASSED = frozenset(
    {b"host", b"accept", b"accept-encoding", b"accept-language", b"content-type", b"if-none-match", b"origin"}
    | {b"if-modified-since", b"user-agent", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto"}
)
"""Headers that go to the playground. No cookie and no key: the page sends the key that a visitor gave it by itself."""
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding"}  # these are of the playground's own connection
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    b"frame-ancestors 'self'"
)
_SECURITY = {
    b"content-security-policy": _POLICY,
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
_LOOKUP_PERIOD_S = 2.0
"""Serve is asked no more often than this whether there is a playground: it takes 15 ms, and a path costs nothing."""
_FIRST_PART_S = 30.0
"""The longest wait for an answer to begin: the first page has the playground load its libraries."""
_Absence = type[NoPlaygroundError | PlaygroundUnavailableError]
_LOST = (RayError, RayServeException, DeploymentUnavailableError)


class PageRequest(NamedTuple):
    """A browser's request to the playground, as ASGI has it."""

    scope: dict[str, Any]  # Any: of every type
    body: bytes


class ResponseHead(NamedTuple):
    """The beginning of an answer; pieces of its body, `bytes`, follow."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


Answer = AsyncIterator[ResponseHead | bytes]  # first the head, then the body as it comes


class PlaygroundClient:
    """Sends requests to the playground's application. Costs nothing until there is one."""

    def __init__(self) -> None:
        self._found: DeploymentHandle | _Absence = NoPlaygroundError
        self._looked_s = -_LOOKUP_PERIOD_S
        self._lookup = asyncio.Lock()
        self._open: set[DeploymentResponseGenerator[ResponseHead | bytes]] = set()
        self._closed = False

    async def answer(self, request: PageRequest) -> Answer:
        """Have one request answered.

        Raises:
            NoPlaygroundError: The cluster has no such application.
            PlaygroundUnavailableError: It has, and it does not answer now.
        """
        parts = (await self._handle()).answer.remote(request)
        self._open.add(parts)
        begun = False
        try:
            yield await asyncio.wait_for(anext(parts), _FIRST_PART_S)
            begun = True
            async for part in parts:  # a stream of events may be silent for as long as it likes
                yield part
        except (TimeoutError, *_LOST):
            self._found = PlaygroundUnavailableError
            if not (begun and self._closed):
                raise PlaygroundUnavailableError from None
        finally:
            self._open.discard(parts)
            with contextlib.suppress(*_LOST):
                parts.cancel()

    def close(self) -> None:
        """End what is open: a page holds a stream for as long as it is open, and an ingress that ends must not wait."""
        self._closed = True
        for parts in self._open:
            parts.cancel()

    async def _handle(self) -> DeploymentHandle:
        async with self._lookup:
            if isinstance(self._found, type) and time.monotonic() - self._looked_s >= _LOOKUP_PERIOD_S:
                found = await asyncio.to_thread(_look)
                # Once, and on the event loop: each such handle has a router, which uses the loop that it is made on.
                self._found = found if isinstance(found, type) else found.options(stream=True)
                self._looked_s = time.monotonic()
            if isinstance(self._found, type):
                raise self._found
            return self._found


def _look() -> DeploymentHandle | _Absence:
    """Ask Serve; blocks."""
    try:
        for name, application in serve.status().applications.items():
            if playground := application.deployments.get(UI_DEPLOYMENT):
                healthy = playground.status == DeploymentStatus.HEALTHY
                return serve.get_deployment_handle(UI_DEPLOYMENT, name) if healthy else PlaygroundUnavailableError
    except (RayError, RayServeException):  # Serve is shutting down
        return PlaygroundUnavailableError
    return NoPlaygroundError


def playground_router(answer: Callable[[PageRequest], Answer], limits: LimitsConfig) -> APIRouter:
    """Make the routes; `answer` is as `PlaygroundClient.answer`, `limits` are those of every request."""
    router = APIRouter(include_in_schema=False)
    limits = limits.model_copy(update={"max_request_bytes": min(limits.max_request_bytes, _MAX_BODY_BYTES)})

    @router.api_route(UI_PATH, methods=["GET", "HEAD", "POST"])
    @router.api_route(UI_PATH + "/{path:path}", methods=["GET", "HEAD", "POST"])
    async def page(request: Request) -> Response:
        path = "/" + request.path_params.get("path", "")
        if path == "/" and not request.scope.get("raw_path", b"").endswith(b"/"):
            # Relative, as all the links on the page: it works behind a proxy that has this service under a prefix.
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{UI_PATH[1:]}/{query}", 307)
        if ".." in path or not (_WRITTEN if request.method == "POST" else _READ).fullmatch(path):
            raise NotFoundError("the playground has no such path")
        try:
            parts = answer(PageRequest(_scope(request, path), await read_body(request, limits)))
            head = cast("ResponseHead", await anext(parts))
        except PlaygroundUnavailableError as error:
            unavailable = error_response(error)
            request.state.record.error = error.code
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                unavailable.headers["Refresh"] = "2"  # a browser that is early sees the page by itself
            return unavailable
        own = _SECURITY
        if head.status == 200 and _IMMUTABLE.fullmatch(path):
            own = _SECURITY | {b"cache-control": b"public, max-age=31536000, immutable"}
        response = StreamingResponse(cast("AsyncIterator[bytes]", parts), head.status)
        kept = [(name, value) for name, value in head.headers if name.lower() not in _HOP_BY_HOP | own.keys()]
        response.raw_headers = [*kept, *own.items()]
        return response

    return router


def _scope(request: Request, path: str) -> dict[str, Any]:
    """Write the request's scope anew: of what it holds here, only this is the playground's business."""
    prefix = request.headers.get("x-forwarded-prefix", "").split(",")[0].strip().rstrip("/")
    prefix = prefix if _PREFIX.fullmatch(prefix) else ""
    kept = ("type", "http_version", "method", "scheme", "query_string")
    return {name: request.scope[name] for name in kept} | {
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # 2.3: a stream ends when its client does
        "path": prefix + UI_PATH + path,
        "raw_path": f"{prefix}{UI_PATH}{path}".encode(),
        "root_path": prefix,  # Gradio puts it before the URLs that it makes
        "headers": [(name, value) for name, value in request.headers.raw if name in _PASSED],
    }
