"""The playground's paths: what comes for them goes on to its own application. Nothing of it runs in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from deployments.http.requests import read_body
from deployments.http.responses import error_response
from deployments.ui.visits import UI_PATH, Head, Visit
from reranker.config import LimitsConfig
from reranker.errors import PlaygroundUnavailableError

_MAX_BODY_BYTES = 8 * 2**20
"""What a browser sends: a list of documents at most. These paths need no key."""
_PASSED = frozenset(
    {"host", "accept", "accept-encoding", "accept-language", "content-type", "if-none-match", "if-modified-since"}
    | {"origin", "user-agent", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto"}
)
"""Headers that go to the playground. No cookie and no key: the page sends the key that a visitor gave it by itself."""
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})
_AGAIN_S = 2


class UIBackend(Protocol):
    """What these routes need of the service."""

    def visit_ui(self, visit: Visit) -> AsyncIterator[Head | bytes]:
        """Have a visit answered by the playground."""
        ...


def add_ui_routes(api: FastAPI, backend: UIBackend, limits: LimitsConfig) -> None:
    """Add the playground's paths to the application."""
    limits = limits.model_copy(update={"max_request_bytes": min(limits.max_request_bytes, _MAX_BODY_BYTES)})

    async def visit(request: Request) -> Response:
        if request.url.path == UI_PATH and not request.scope.get("raw_path", b"").endswith(b"/"):
            # Relative, as all the links on the page: it works behind a proxy that has this service under a prefix.
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{UI_PATH[1:]}/{query}", 307)
        try:
            parts = backend.visit_ui(await _visit(request, limits))
            head = await anext(parts)
        except PlaygroundUnavailableError as error:
            answer = error_response(error)
            request.state.timeline.error = error.code
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                answer.headers["Refresh"] = str(_AGAIN_S)  # a browser that is early sees the page by itself
            return answer
        assert isinstance(head, Head)  # noqa: S101 - by the protocol; for the type checker
        response = StreamingResponse(_body(parts), head.status)
        response.raw_headers = [(name, value) for name, value in head.headers if name.lower() not in _HOP_BY_HOP]
        return response

    for path in (UI_PATH, UI_PATH + "/{path:path}"):
        api.add_api_route(path, visit, methods=["GET", "HEAD", "POST"], include_in_schema=False)


async def _visit(request: Request, limits: LimitsConfig) -> Visit:
    body = await read_body(request, limits)
    path = request.url.path
    return Visit(
        method=request.method,
        path=path if path != UI_PATH else f"{UI_PATH}/",
        query=request.scope["query_string"],
        headers=tuple((name, value) for name, value in request.headers.raw if name.decode("latin-1") in _PASSED),
        body=body,
        scheme=request.url.scheme,
    )


async def _body(parts: AsyncIterator[Head | bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        assert isinstance(part, bytes)  # noqa: S101 - by the protocol; for the type checker
        yield part
