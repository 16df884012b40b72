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
from dataclasses import dataclass
from typing import cast

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
Headers = tuple[tuple[bytes, bytes], ...]

_MAX_BODY_BYTES = 8 * 2**20
"""What a browser sends: a list of documents at most."""
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/(?:assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(?:startup-events|app_id|theme\.css|queue/data|heartbeat/[\w-]+)"
)
_WRITTEN = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)")
_IMMUTABLE = re.compile(r"/assets/.*-[\w-]{8,}\.\w+")
"""Files whose name changes with their content."""
_PREFIX = re.compile(r"(?:/[\w.~-]+)+")
_PASSED = frozenset(
    {"host", "accept", "accept-encoding", "accept-language", "content-type", "if-none-match", "if-modified-since"}
    | {"origin", "user-agent", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto"}
)
"""Headers that go to the playground. No cookie and no key: the page sends the key that a visitor gave it by itself."""
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'self'"
)
_SECURITY = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_CACHE_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
_RELOAD_S = 2
_LOOKUP_PERIOD_S = 2.0
"""Serve is asked no more often than this whether there is a playground: it takes 15 ms, and a path costs nothing."""
_FIRST_PART_S = 30.0
"""The longest wait for an answer to begin: the first page has the playground load its libraries."""
_LOST = (RayError, RayServeException, DeploymentUnavailableError)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A browser's request to the playground."""

    method: str
    path: str
    """From `UI_PATH` on."""
    query: bytes
    headers: Headers
    body: bytes
    scheme: str
    """"http" or "https", as the ingress was asked."""
    prefix: str = ""
    """Under which a reverse proxy has this service."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The beginning of an answer; pieces of its body, `bytes`, follow."""

    status: int
    headers: Headers


Answer = AsyncIterator[ResponseHead | bytes]
"""First the head, then the body as it comes."""


class PlaygroundClient:
    """Sends requests to the playground's application. Costs nothing until there is one."""

    def __init__(self) -> None:
        """Look for nothing yet."""
        self._handle: DeploymentHandle | None = None
        self._absence: NoPlaygroundError | PlaygroundUnavailableError = NoPlaygroundError()
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
        parts = (await self._found()).answer.remote(request)
        self._open.add(parts)
        try:
            try:
                head = await asyncio.wait_for(anext(parts), _FIRST_PART_S)
            except (TimeoutError, *_LOST):
                self._handle = None
                raise PlaygroundUnavailableError from None
            yield head
            try:
                async for part in parts:  # a stream of events may be silent for as long as it likes
                    yield part
            except _LOST:
                if not self._closed:
                    raise
        finally:
            self._open.discard(parts)
            with contextlib.suppress(*_LOST):
                parts.cancel()

    def close(self) -> None:
        """End what is open: a page holds a stream for as long as it is open, and an ingress that ends must not wait."""
        self._closed = True
        for parts in self._open:
            parts.cancel()

    async def _found(self) -> DeploymentHandle:
        async with self._lookup:
            if self._handle is None:
                if time.monotonic() - self._looked_s >= _LOOKUP_PERIOD_S:
                    found = await asyncio.to_thread(self._look)
                    self._handle = found and found.options(stream=True)  # on the event loop, which its router is to use
                    self._looked_s = time.monotonic()
                if self._handle is None:
                    raise self._absence
            return self._handle

    def _look(self) -> DeploymentHandle | None:
        """Ask Serve; blocks."""
        self._absence = NoPlaygroundError()
        try:
            for name, application in serve.status().applications.items():
                if UI_DEPLOYMENT in application.deployments:
                    if application.deployments[UI_DEPLOYMENT].status == DeploymentStatus.HEALTHY:
                        return serve.get_deployment_handle(UI_DEPLOYMENT, name)
                    self._absence = PlaygroundUnavailableError()
        except (RayError, RayServeException):  # Serve is shutting down
            self._absence = PlaygroundUnavailableError()
        return None


def playground_router(answer: Callable[[PageRequest], Answer], limits: LimitsConfig) -> APIRouter:
    """Make the routes.

    Args:
        answer: As `PlaygroundClient.answer`.
        limits: What one request may have.
    """
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
            parts = answer(_page_request(request, path, await read_body(request, limits)))
            head = cast("ResponseHead", await anext(parts))
        except PlaygroundUnavailableError as error:
            unavailable = error_response(error)
            request.state.record.error = error.code
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                unavailable.headers["Refresh"] = str(_RELOAD_S)  # a browser that is early sees the page by itself
            return unavailable
        response = StreamingResponse(cast("AsyncIterator[bytes]", parts), head.status)
        response.raw_headers = _response_headers(head, path)
        return response

    return router


def _page_request(request: Request, path: str, body: bytes) -> PageRequest:
    prefix = request.headers.get("x-forwarded-prefix", "").split(",")[0].strip().rstrip("/")
    return PageRequest(
        method=request.method,
        path=UI_PATH + path,
        query=request.scope["query_string"],
        headers=tuple((name, value) for name, value in request.headers.raw if name.decode("latin-1") in _PASSED),
        body=body,
        scheme=request.url.scheme,
        prefix=prefix if _PREFIX.fullmatch(prefix) else "",
    )


def _response_headers(head: ResponseHead, path: str) -> list[tuple[bytes, bytes]]:
    """Give the playground's headers without those of its own connection, and what keeps the page to itself."""
    headers = [(name, value) for name, value in head.headers if name.lower() not in _HOP_BY_HOP]
    if head.status == 200 and _IMMUTABLE.fullmatch(path):
        headers = [_CACHE_FOR_EVER, *((name, value) for name, value in headers if name != _CACHE_FOR_EVER[0])]
    return [*headers, *_SECURITY]
