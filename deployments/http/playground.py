"""The playground's paths, and the way to its application: through Serve's handle, on whatever node it is.

It has no port of its own, so it needs no certificate or network policy of its own (decision 0008). Gradio has more
paths than the page needs: files, uploads, a proxy, a queue, an API of every event. What is not named here does not
exist.

It is a guest, which costs the service's callers nothing. What its page sends needs a key where there are keys, and has
a small memory of its own (`GUEST_BYTES`). The page and its files, which everybody may have, are passed on at a rate;
those that never change are kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus
from starlette.responses import RedirectResponse, Response

from deployments.http.requests import HOST, compression, read_body
from deployments.http.responses import LargeResponse, error_response
from reranker.config import LimitsConfig
from reranker.errors import (
    MemoryFullError,
    NoAnswerError,
    NoPlaygroundError,
    NotFoundError,
    PlaygroundUnavailableError,
    UnknownEncodingError,
)
from reranker.ranking.threads import SharedCall

UI_PATH = "/ui"
UI_DEPLOYMENT = "Playground"
GUEST_BYTES = 24 * 2**20
"""Memory of an ingress for what is sent to the playground and what it answers, apart from that of API requests."""

_MAX_BODY_BYTES = 8 * 2**20
"""Of a list of documents: those of a file of 4 MiB, the most that the page opens, twice as long if all is escaped."""
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/(?:assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(?:startup-events|app_id|theme\.css)"
)
_WRITTEN = "/gradio_api/run/predict"
_IMMUTABLE = re.compile(r"/assets/.*-[\w-]{8,}\.\w+")  # files whose name changes with their content
_PREFIX = re.compile(r"(?:/(?!\.+(?:/|$))[\w.~-]+){1,16}/?", re.ASCII)
_SCHEME = re.compile("https?")
_ORIGIN = b"http://playground.invalid"
"""What the playground is told that its address is. In its page it becomes the one that a visitor's browser knows; no
other word of a request for the page goes there, so that one answer is right for everybody."""
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length"}
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
_FOR_EVER = {b"cache-control": b"public, max-age=31536000, immutable"}
_KEPT_S, _LONG_KEPT_S = 10.0, 86_400.0
_LOOKUP_PERIOD_S, _LOOKUP_S = 2.0, 4.0
"""Serve is asked no more often than this whether there is a playground, and not for longer: it takes 15 ms, and a path
costs nothing."""
_READ_S, _WRITTEN_S = 30.0, 140.0
"""The longest wait for an answer. The first page has the playground load its libraries; a ranking may take two minutes
(`limits.timeout_s`)."""
_MOST_WRITTEN = 16
"""At once."""
_READS_PER_S, _READS_AT_ONCE, _READ_WAIT_S = 3, 90, 4.0
"""The page is some eighty files for its first visitor; the next ones have them from here. One that is passed on takes
5 ms of the playground, the page itself 19, and 2 ms here."""
_KEPT_BYTES = 12 * 2**20
"""Of answers: all that the page loads, packed and not."""
_Absence = type[NoPlaygroundError | PlaygroundUnavailableError]
_LOST = (RayError, RayServeException, DeploymentUnavailableError)


class PageRequest(NamedTuple):
    """A browser's request to the playground, as ASGI has it."""

    scope: dict[str, Any]  # Any: of every type
    body: bytes


class PageAnswer(NamedTuple):
    """What the playground answers."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class PlaygroundClient:
    """Sends requests to the playground's application. Costs nothing until there is one."""

    def __init__(self) -> None:
        self._found: DeploymentHandle | None = None
        self._lookup = SharedCall(partial(asyncio.to_thread, _look), _LOOKUP_PERIOD_S, _LOOKUP_S)

    async def answer(self, request: PageRequest) -> PageAnswer:
        """Have one request answered. It ends there as well when its client hangs up.

        Raises:
            NoPlaygroundError: The cluster has no such application.
            PlaygroundUnavailableError: It has, and it does not answer now.
        """
        answering = (await self._handle()).answer.remote(request)
        try:
            async with asyncio.timeout(_WRITTEN_S if request.scope["method"] == "POST" else _READ_S):
                answer: PageAnswer = await answering
                return answer
        except (TimeoutError, *_LOST):
            self._found = None
            raise PlaygroundUnavailableError from None
        finally:
            with contextlib.suppress(*_LOST):
                answering.cancel()

    async def _handle(self) -> DeploymentHandle:
        if self._found is None:
            try:
                found = await self._lookup.answer()
            except NoAnswerError:
                raise PlaygroundUnavailableError from None
            if isinstance(found, type):
                raise found
            self._found = found
        return self._found


def _look() -> DeploymentHandle | _Absence:
    """Ask Serve; blocks."""
    try:
        for name, application in serve.status().applications.items():
            if playground := application.deployments.get(UI_DEPLOYMENT):
                healthy = playground.status == DeploymentStatus.HEALTHY
                if not healthy:
                    return PlaygroundUnavailableError
                handle: DeploymentHandle = serve.get_deployment_handle(UI_DEPLOYMENT, name)
                if not handle.is_initialized:  # which blocks: not with the first page, on the event loop
                    handle._init(_run_router_in_separate_loop=True)  # a thread has no loop
                return handle
    except (RayError, RayServeException, KeyError):  # Serve is shutting down, or the playground has just ended
        return PlaygroundUnavailableError
    return NoPlaygroundError


class _Files:
    """The page and its files, those asked for last, within `_KEPT_BYTES`; for a while, or those that never change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._bytes = clock, 0
        self._answers: OrderedDict[tuple[str, bool], tuple[PageAnswer, float]] = OrderedDict()

    def get(self, key: tuple[str, bool]) -> PageAnswer | None:
        answer, until_s = self._answers.get(key, (None, 0.0))
        if answer is None or self._clock() >= until_s:
            return None
        self._answers.move_to_end(key)
        return answer

    def keep(self, key: tuple[str, bool], answer: PageAnswer, seconds: float) -> None:
        if before := self._answers.pop(key, None):
            self._bytes -= len(before[0].body)
        self._answers[key] = answer, self._clock() + seconds
        self._bytes += len(answer.body)
        while self._bytes > _KEPT_BYTES:
            _, (left_out, _) = self._answers.popitem(last=False)
            self._bytes -= len(left_out.body)


class _Turns:
    """Lets so many a second through, and some at once; those that would have to wait for long are refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._turn_s = clock, 0.0

    async def wait(self) -> None:
        """Wait for a turn; raises PlaygroundUnavailableError."""
        now_s = self._clock()
        turn_s = max(self._turn_s, now_s - _READS_AT_ONCE / _READS_PER_S) + 1 / _READS_PER_S
        if turn_s - now_s > _READ_WAIT_S:
            raise PlaygroundUnavailableError
        self._turn_s = turn_s
        await asyncio.sleep(max(0.0, turn_s - now_s))


def playground_router(answer: Callable[[PageRequest], Awaitable[PageAnswer]], limits: LimitsConfig) -> APIRouter:
    """Make the routes; `answer` is as `PlaygroundClient.answer`, `limits` are those of every request."""
    router = APIRouter(include_in_schema=False)
    limits = limits.model_copy(update={"max_request_bytes": min(limits.max_request_bytes, _MAX_BODY_BYTES)})
    files, turns = _Files(), _Turns()
    writing = 0

    async def read(request: Request, path: str) -> PageAnswer:
        """Answer what everybody may have."""
        packed = "br" in request.headers.get("accept-encoding", "")
        answered = files.get((path, packed))
        if answered is None:
            await turns.wait()
            coding = (b"accept-encoding", b"br" if packed else b"identity")
            answered = await answer(PageRequest(_scope("GET", path, coding), b""))
            if answered.status == 200:
                files.keep((path, packed), answered, _LONG_KEPT_S if _IMMUTABLE.fullmatch(path) else _KEPT_S)
        if path in ("/", "/config"):
            return answered._replace(body=answered.body.replace(_ORIGIN, _origin(request)))
        return answered

    async def write(request: Request, path: str) -> PageAnswer:
        """Answer what the page sends, whose key is known."""
        nonlocal writing
        if compression(request.headers.get("content-encoding", "")):
            raise UnknownEncodingError  # no browser compresses what a page sends
        if writing >= _MOST_WRITTEN:
            raise PlaygroundUnavailableError
        writing += 1
        try:
            body = await read_body(request, limits)
            passed = [one for one in request.headers.raw if one[0] in (b"authorization", b"content-type")]
            answered = await answer(PageRequest(_scope("POST", path, *passed), bytes(body)))
        finally:
            writing -= 1
        request.state.hold.resize(len(answered.body))
        return answered

    @router.api_route(UI_PATH, methods=["GET", "HEAD", "POST"])
    @router.api_route(UI_PATH + "/{path:path}", methods=["GET", "HEAD", "POST"])
    async def page(request: Request) -> Response:
        path = "/" + request.path_params.get("path", "")
        if path == "/" and not request.scope.get("raw_path", b"").endswith(b"/"):
            # Relative, as all the links on the page: it works behind a proxy that has this service under a prefix.
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{UI_PATH[1:]}/{query}", 307)
        posted = request.method == "POST"
        if ".." in path or not (path == _WRITTEN if posted else _READ.fullmatch(path)):
            raise NotFoundError("the playground has no such path")
        try:
            answered = await (write if posted else read)(request, path)
        except (PlaygroundUnavailableError, MemoryFullError):
            error = PlaygroundUnavailableError()
            unavailable = error_response(error)
            request.state.record.error = error.code
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                unavailable.headers["Refresh"] = "2"  # a browser that is early sees the page by itself
            return unavailable
        own = _SECURITY
        if answered.status == 200 and _IMMUTABLE.fullmatch(path):
            own = _SECURITY | _FOR_EVER
        response = LargeResponse([answered.body], answered.status)
        kept = [(name, value) for name, value in answered.headers if name.lower() not in _HOP_BY_HOP | own.keys()]
        response.raw_headers = [*kept, *own.items(), (b"content-length", b"%d" % len(answered.body))]
        return response

    return router


def _origin(request: Request) -> bytes:
    """Where the service is as the visitor's browser sees it, which may be through a proxy."""
    prefix = _first(request, "x-forwarded-prefix", _PREFIX, "").rstrip("/")
    host = _first(request, "x-forwarded-host", HOST, request.headers.get("host", ""))
    return f"{_first(request, 'x-forwarded-proto', _SCHEME, request.url.scheme)}://{host}{prefix}".encode()


def _first(request: Request, header: str, form: re.Pattern[str], otherwise: str) -> str:
    """The first of what proxies say, if it is what it is to be."""
    said = request.headers.get(header, "").split(",")[0].strip()
    return said if form.fullmatch(said) else otherwise


def _scope(method: str, path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """Write a request's scope anew: of what it holds here, only this is the playground's business."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": UI_PATH + path,
        "raw_path": f"{UI_PATH}{path}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", _ORIGIN.removeprefix(b"http://")), *headers],
    }
