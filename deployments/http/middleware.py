"""What every request passes: it gets its record, its caller is let in or not, and an error becomes its answer.

It stands around all routes and knows none of them. Without a key it lets in only what is named in `OPEN` and what is
read below the playground, on the very path that is then routed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.access import Keyring
from deployments.http.guard import BytesInHand
from deployments.http.playground import GUEST_BYTES, UI_PATH
from deployments.http.quotas import Quotas
from deployments.http.requests import require_sound_head
from deployments.http.responses import error_response, server_timing
from reranker import errors
from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS, PATHS, path_of
from reranker.record import CLIENT_GONE, RequestRecord, request_id

logger = logging.getLogger(__name__)

Observer: TypeAlias = Callable[[RequestRecord], None]
"""Told of each request that has ended, of every path."""
OPEN = frozenset({"/", "/docs", "/openapi.json", "/v1/cluster/auth", "/-/healthz"}) | {
    *("/health", "/v1/health/ready", "/v1/health/live", "/.well-known/ready", "/.well-known/live"),
}
"""Paths that need no key: none of them touches the model."""
METRICS = "/metrics"
"""Needs no key where `access.open_metrics` says so."""
_CLIENT_GONE_CODE = "client_gone"
_GUESTS = "guests"
"""Those without a key have one share of the memory together."""
_SLASHES = re.compile("/+")
_REQUEST_ID, _TRACEPARENT, _TRACESTATE = b"x-request-id", b"traceparent", b"tracestate"
_MAX_ID = 128
_MANY_SHARDS = 1_000
"""Of a request of many lists. What it went through is added up in a thread then: with 10,000 it takes 0.1 s."""
_DIALECTS = {one.name: one for one in DIALECTS}


def is_open(path: str, method: str) -> bool:
    # The playground's page asks for a key, and sends it with whatever it sends.
    return path in OPEN or (_is_guest(path) and method in ("GET", "HEAD"))


def _is_guest(path: str) -> bool:
    return f"{path}/".startswith(f"{UI_PATH}/")


class RequestMiddleware:
    """ASGI middleware. Leaves `record` and `caller` in the request's state.

    `observers` are told of each request once it has ended; they cost it no time. `count` is told before the answer goes
    out: no client may have one that is not counted. A key's own limits hold on `ranking_paths`, and are counted in this
    process alone unless `quotas` says otherwise. While `draining`, a connection ends with its next answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitsConfig,
        keys: Keyring,
        ranking_paths: Collection[str] = (),
        observers: Sequence[Observer] = (),
        count: Observer | None = None,
        quotas: Quotas | None = None,
        memory: BytesInHand | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.limits, self.keys, self.quotas = app, limits, keys, quotas or Quotas()
        self.ranking_paths, self.observers, self.draining = frozenset(ranking_paths), observers, draining
        self.memory = memory or BytesInHand(limits.max_bytes_in_hand)
        self.guests = BytesInHand(GUEST_BYTES, beside=self.memory)
        self.counting = () if count is None else (count,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def without_request_ids(app: ASGIApp) -> ASGIApp:
    """For a server that names the request in each answer by itself, as Serve's do: once is enough."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [one for one in message["headers"] if one[0] != _REQUEST_ID]
            await send(message)

        await app(scope, receive, send_one)

    return answer


class _Exchange:
    """One request and its answer. Its task is cancelled when its client hangs up."""

    def __init__(self, front: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._front, self._receive, self._send = front, receive, send
        headers = dict(scope["headers"])
        # The client's own id, if it can be written into a header and a log.
        given = headers.get(_REQUEST_ID, b"")[:_MAX_ID]
        own = given and all(32 < byte < 127 for byte in given)
        # Base URLs come with and without a slash at their end; one form, for the check and for the routing.
        prefix = scope.get("root_path", "")
        path = _SLASHES.sub("/", "/" + scope["path"].removeprefix(prefix)).rstrip("/") or "/"
        record = RequestRecord(given.decode() if own else f"rerank-{uuid.uuid4().hex}", scope["method"], path_of(path))
        record.traceparent = headers.get(_TRACEPARENT, b"").decode("latin-1")
        record.tracestate = headers.get(_TRACESTATE, b"").decode("latin-1")
        request_id.set(record.request_id)  # each request has a task of its own
        self._record, self._ranks = record, record.path in front.ranking_paths
        self._scope = {**scope, "path": prefix + path, "state": {**scope.get("state", {}), "record": record}}
        if scope["method"] == "HEAD":  # as GET; the server, which has the scope as it was, sends no body
            self._scope["method"] = "GET"
        self._task = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._complete = self._hung_up = self._started = False

    async def run(self) -> None:
        record = self._record
        try:
            await self._answer()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None  # else a cycle: the task keeps its error, that the frame, and that this
            _tell(record, [RequestRecord.begin_what_follows])
            await self._summed(self._end)

    def _end(self) -> None:
        record = self._record
        record.end()
        if not record.status:
            record.status, record.error = CLIENT_GONE, record.error or _CLIENT_GONE_CODE
            _tell(record, self._front.counting)
        _tell(record, self._front.observers)

    async def _summed(self, function: Callable[..., None], *args: object) -> None:
        """Call a function that adds up what the request went through."""
        if len(self._record.shards) > _MANY_SHARDS:
            await asyncio.to_thread(function, *args)
        else:
            function(*args)

    async def _answer(self) -> None:
        """Let the application answer. Here, and nowhere else, an error becomes an answer."""
        front, record, scope = self._front, self._record, self._scope
        try:
            require_sound_head(scope, front.limits)
            memory = front.guests if _is_guest(record.path) else front.memory
            if is_open(record.path, record.method) or (record.path == METRICS and front.keys.open_metrics):
                with memory.request(_GUESTS) as scope["state"]["hold"]:
                    await front.app(scope, self._receive_one, self._send_one)
                return
            sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
            # Of two headers, it would depend on the reader which one counts.
            caller = front.keys.caller(sent[0].decode("latin-1") if len(sent) == 1 else None)
            scope["state"]["caller"], record.caller = caller, caller.name
            async with front.quotas.request(caller) if self._ranks else nullcontext():
                with memory.request(caller.name) as scope["state"]["hold"]:
                    await front.app(scope, self._receive_one, self._send_one)
                front.quotas.spend(caller, record.prompt_tokens)
        except asyncio.CancelledError:
            if self._hung_up:
                return
            if not self._started:  # the server ends, and has waited long enough
                await self._refuse(errors.NotReadyError())
            raise
        except ClientDisconnect:
            record.error = _CLIENT_GONE_CODE
            await Response(status_code=CLIENT_GONE)(scope, self._receive_one, self._send_one)  # nobody reads it
        except Exception as error:  # noqa: BLE001 - a bug of ours is logged, and answered with a fixed sentence
            await self._refuse(error)

    async def _refuse(self, error: BaseException) -> None:
        record, ours = self._record, _as_ours(error, self._scope)
        record.error = ours.code
        if isinstance(ours, errors.InternalError):
            logger.error("request %s failed by a bug", record.request_id, exc_info=error)
        if self._started:
            return
        response = error_response(ours, _DIALECTS.get(record.dialect) or PATHS.get(record.path))
        if self._ranks:
            response.headers["server-timing"] = server_timing(record)
        await response(self._scope, self._receive_one, self._send_one)

    async def _receive_one(self) -> Message:
        if self._watching is not None:  # once the body is all there, only a hang-up can follow
            await asyncio.Event().wait()
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watching = asyncio.ensure_future(self._watch())
        return message

    async def _watch(self) -> None:
        if (await self._receive())["type"] == "http.disconnect" and not self._complete and self._task is not None:
            self._hung_up = True
            self._task.cancel()

    async def _send_one(self, message: Message) -> None:
        record = self._record
        if message["type"] == "http.response.start":
            self._started, record.status = True, message["status"]
            if record.status >= 400 and not record.error:
                record.error = f"http_{record.status}"  # of an answer that a route or the playground wrote by itself
            await self._summed(_tell, record, self._front.counting)
            headers = [*message.get("headers", ()), (_REQUEST_ID, record.request_id.encode("latin-1"))]
            if self._front.draining():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self._complete = True
        await self._send(message)


def _as_ours(error: BaseException, scope: Scope) -> errors.RerankerError:
    match error:
        case errors.RerankerError():
            return error
        case HTTPException(status_code=404):
            known = error.detail != "Not Found"  # else the framework's own word for a path that no route has
            docs = f"{Request(scope).base_url}docs"
            said = error.detail if known else f"no such path; rerank at POST /v1/rerank, docs at {docs}"
            return errors.NotFoundError(said)
        case HTTPException(status_code=405):  # the framework names the methods of the first route only
            matching = [one for one in scope["app"].routes if one.matches(scope)[0] != Match.NONE]
            named = [one for one in matching if one.path == scope["path"]]  # not what a path with a parameter takes too
            methods = {name for one in named or matching for name in one.methods}
            return errors.MethodNotAllowedError(", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))))
        case HTTPException():
            return errors.InvalidRequestError("", str(error.detail))
        case _:
            return errors.InternalError()


def _tell(record: RequestRecord, observers: Sequence[Observer]) -> None:
    for observer in observers:
        try:
            observer(record)
        except Exception:
            logger.exception("request %s cannot be told of", record.request_id)
