"""What runs in Serve's HTTP proxy, outside the application: its error pages become our JSON, its headers ours.

The proxy answers in plain text while the application is not there yet (404), when a request times out (408) or when
the ingress is gone (500, 503). Several clients break on an answer that is not JSON. It also obeys two headers that a
client can send: one would end a request our way of partial answers and 504 cannot see, the other would keep the work
of a client that is gone. serve_config.yaml names `middlewares` in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import http_protocol
from reranker.dialects.envelope import TIMEOUT_HEADER, Problem, universal
from reranker.errors import NotReadyError

_MESSAGES = {408: "the request took too long", 500: "internal error; the service's log has more"}


_RAY_TIMEOUT = b"x-request-timeout-seconds"
_RAY_KEEP_WORKING = b"x-request-disconnect-disabled"


class OurHeaders:
    """ASGI middleware: Ray's timeout header becomes ours, its header against cancellation is dropped."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if any(name in (_RAY_TIMEOUT, _RAY_KEEP_WORKING) for name, _ in scope.get("headers", ())):
            ours = TIMEOUT_HEADER.lower().encode()
            renamed = [(ours if name == _RAY_TIMEOUT else name, value) for name, value in scope["headers"]]
            scope = {**scope, "headers": [one for one in renamed if one[0] != _RAY_KEEP_WORKING]}
        await self._app(scope, receive, send)


class JsonErrors:
    """ASGI middleware: every plain-text error becomes JSON; everything else passes untouched, streamed."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        replaced: Message | None = None

        async def send_json_errors(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                content_type = dict(message.get("headers", ())).get(b"content-type", b"")
                if message["status"] >= 400 and not content_type.startswith(b"application/json"):
                    replaced = message
                    return
            elif replaced is not None:
                if not message.get("more_body", False):
                    await _send_error(replaced["status"], send)
                return
            await send(message)

        await self._app(scope, receive, send_json_errors)


async def _send_error(status: int, send: Send) -> None:
    # Our route prefix is "/", so that the proxy knows no route means that the application is not deployed yet.
    if status in (404, 503):
        status, body = 503, universal(Problem.of(NotReadyError()))
    else:
        body = universal(Problem(_MESSAGES.get(status, "the request was refused"), f"http_{status}", status))
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def middlewares() -> list[Middleware]:
    """What Serve's proxy calls when it starts, before its server does."""
    http_protocol.install()
    return [Middleware(OurHeaders), Middleware(JsonErrors)]
