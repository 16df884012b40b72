"""What every request passes: it gets its record, its caller is let in or not, and an error becomes its answer.

It stands around all routes and knows none of them. Without a key it lets in only what is named in `OPEN` or lies below
the playground, on the very path that is then routed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import TypeAlias

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.access import Keyring
from deployments.http.playground import UI_PATH
from deployments.http.quotas import Quotas
from deployments.http.requests import require_short_head
from deployments.http.responses import error_response, server_timing
from reranker import errors
from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.record import CLIENT_GONE, RequestRecord, request_id

logger = logging.getLogger(__name__)

Observer: TypeAlias = Callable[[RequestRecord], None]
"""Told of each request that has ended, of every path."""
OPEN = frozenset({"/", "/health", "/docs", "/openapi.json", "/v1/cluster/auth", "/-/healthz"})
"""Paths that need no key: none of them touches the model."""
METRICS = "/metrics"
"""Needs no key where `access.open_metrics` says so."""
_CLIENT_GONE_CODE = "client_gone"
_SLASHES = re.compile("/+")
_REQUEST_ID, _TRACEPARENT, _TRACESTATE = b"x-request-id", b"traceparent", b"tracestate"
_MAX_ID = 128
_DIALECTS = {one.name: one for one in DIALECTS}


def is_open(path: str) -> bool:
    # The playground's page asks for a key, and sends it with what it asks of the service.
    return path in OPEN or f"{path}/".startswith(f"{UI_PATH}/")


class RequestMiddleware:
    """ASGI middleware. Leaves `record` and `caller` in the request's state."""

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitsConfig,
        keys: Keyring,
        ranking_paths: Collection[str] = (),
        observers: Sequence[Observer] = (),
        count: Observer | None = None,
        quotas: Quotas | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """Stand around an application.

        Args:
            app: The application.
            limits: How large a request's head may be.
            keys: Who may use the service.
            ranking_paths: Where the limits of a key hold.
            observers: Told of each request once it has ended, in this order. They cost no request any time, and fail
                none.
            count: Told of each request before its answer goes out: no client may have one that is not counted.
            quotas: None: counted in this process alone.
            draining: Whether connections are to end with their next answer.
        """
        self._app, self._limits, self._keys, self._quotas = app, limits, keys, quotas or Quotas()
        self._ranking_paths, self._observers, self._draining = frozenset(ranking_paths), observers, draining
        self._counting = () if count is None else (count,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        # Base URLs come with and without a slash at their end; one form, for the check and for the routing.
        prefix = scope.get("root_path", "")
        path = _SLASHES.sub("/", "/" + scope["path"].removeprefix(prefix)).rstrip("/") or "/"
        record = RequestRecord(_id_of(headers.get(_REQUEST_ID, b"")), scope["method"], path)
        record.traceparent = headers.get(_TRACEPARENT, b"").decode("latin-1")
        record.tracestate = headers.get(_TRACESTATE, b"").decode("latin-1")
        request_id.set(record.request_id)  # each request has a task of its own
        scope = {**scope, "path": prefix + path, "state": {**scope.get("state", {}), "record": record}}
        exchange = _Exchange(receive, send, lambda message: self._begin_answer(record, message))
        try:
            await self._answer(scope, record, exchange)
        finally:
            exchange.end()
            record.end()
            if not record.status:
                record.status, record.error = CLIENT_GONE, record.error or _CLIENT_GONE_CODE
                _tell(record, self._counting)
            _tell(record, self._observers)

    async def _answer(self, scope: Scope, record: RequestRecord, exchange: _Exchange) -> None:
        """Let the application answer. Here, and nowhere else, an error becomes an answer."""
        try:
            require_short_head(scope, self._limits)
            if is_open(record.path) or (record.path == METRICS and self._keys.open_metrics):
                await self._app(scope, exchange.receive, exchange.send)
                return
            caller = scope["state"]["caller"] = self._keys.caller(_authorization(scope))
            record.caller = caller.name
            async with self._quotas.request(caller) if record.path in self._ranking_paths else nullcontext():
                await self._app(scope, exchange.receive, exchange.send)
                self._quotas.spend(caller, record.prompt_tokens)
        except asyncio.CancelledError:
            if exchange.hung_up:
                return
            if not exchange.started:  # the server ends, and has waited long enough
                await self._refuse(errors.NotReadyError(), scope, record, exchange)
            raise
        except ClientDisconnect:
            record.error = _CLIENT_GONE_CODE
            await Response(status_code=CLIENT_GONE)(scope, exchange.receive, exchange.send)  # nobody reads it
        except Exception as error:  # noqa: BLE001 - a bug of ours is logged, and answered with a fixed sentence
            await self._refuse(error, scope, record, exchange)

    async def _refuse(self, error: BaseException, scope: Scope, record: RequestRecord, exchange: _Exchange) -> None:
        ours = _as_ours(error, scope)
        record.error = ours.code
        if isinstance(ours, errors.InternalError):
            logger.error("request %s failed by a bug", record.request_id, exc_info=error)
        if exchange.started:
            return
        response = error_response(ours, _DIALECTS.get(record.dialect) or PATHS.get(record.path))
        if record.path in self._ranking_paths:
            response.headers["server-timing"] = server_timing(record)
        await response(scope, exchange.receive, exchange.send)

    def _begin_answer(self, record: RequestRecord, message: Message) -> Message:
        record.status = message["status"]
        if record.status >= 400 and not record.error:
            record.error = f"http_{record.status}"  # of an answer that a route or the playground wrote by itself
        _tell(record, self._counting)
        headers = [*message.get("headers", ()), (_REQUEST_ID, record.request_id.encode("latin-1"))]
        if self._draining():
            headers.append((b"connection", b"close"))
        return {**message, "headers": headers}


class _Exchange:
    """The connection's two ends for one request. Cancels the request's task when its client hangs up."""

    __slots__ = ("_begin", "_complete", "_receive", "_send", "_task", "_watching", "hung_up", "started")

    def __init__(self, receive: Receive, send: Send, begin: Callable[[Message], Message]) -> None:
        """`begin` turns an answer's first message into the one that goes out."""
        self._receive, self._send, self._begin = receive, send, begin
        self._task = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._complete = self.hung_up = self.started = False

    async def receive(self) -> Message:
        if self._watching is not None:  # once the body is all there, only a hang-up can follow
            await asyncio.Event().wait()
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watching = asyncio.ensure_future(self._watch())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = self._begin(message)
        elif not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None  # else a cycle: the task keeps its error, that the frame, and that this

    async def _watch(self) -> None:
        if (await self._receive())["type"] == "http.disconnect" and not self._complete and self._task is not None:
            self.hung_up = True
            self._task.cancel()


def _as_ours(error: BaseException, scope: Scope) -> errors.RerankerError:
    match error:
        case errors.RerankerError():
            return error
        case HTTPException(status_code=404):
            known = error.detail != "Not Found"  # else the framework's own word for a path that no route has
            docs = f"{Request(scope).base_url}docs"
            said = error.detail if known else f"no such path; rerank at POST /v1/rerank, docs at {docs}"
            return errors.NotFoundError(said)
        case HTTPException(status_code=405):
            # Of all routes with this path; the framework names the first one's only.
            routes = [
                one for one in scope["app"].routes if isinstance(one, Route) and one.matches(scope)[0] != Match.NONE
            ]
            return errors.MethodNotAllowedError(
                ", ".join(sorted({name for one in routes for name in one.methods or ()}))
            )
        case HTTPException():
            return errors.InvalidRequestError("", str(error.detail))
        case RequestValidationError():
            first = error.errors()[0]
            return errors.InvalidRequestError(".".join(str(part) for part in first["loc"][1:]), first["msg"])
        case _:
            return errors.InternalError()


def _tell(record: RequestRecord, observers: Sequence[Observer]) -> None:
    for observer in observers:
        try:
            observer(record)
        except Exception:
            logger.exception("request %s cannot be told of", record.request_id)


def _id_of(given: bytes) -> str:
    """Take the client's own id, if it can be written into a header and a log."""
    given = given[:_MAX_ID]
    return given.decode() if given and all(32 < byte < 127 for byte in given) else f"rerank-{uuid.uuid4().hex}"


def _authorization(scope: Scope) -> str | None:
    """Give the header if there is exactly one: with two, it would depend on the reader which one counts."""
    found = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else None
