"""What stands before Gradio: of its routes only those that this page uses, and headers that keep the page to itself.

Gradio offers more than a page needs to whoever asks: files, uploads, a proxy, an API of every event. No key guards
these paths, so what is not named here does not exist.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.responses import error_response
from deployments.ui.visits import UI_PATH
from reranker.errors import NotFoundError

_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/(?:assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(?:startup-events|app_id|theme\.css|queue/data|heartbeat/[\w-]+)"
)
_WRITTEN = re.compile(r"/gradio_api/(?:queue/join|cancel|reset)/?")
_LASTING = re.compile(rf"{UI_PATH}/assets/.*-[\w-]{{8,}}\.\w+")
"""Files whose name changes with their content."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'self'"
)
_KEEP = (b"cache-control", b"public, max-age=31536000, immutable")
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the playground's application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or say that there is nothing."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(UI_PATH)
        if ".." in path or not (_WRITTEN if scope["method"] == "POST" else _READ).fullmatch(path):
            await error_response(NotFoundError("the playground has no such path"))(scope, receive, send)
            return
        lasting = _LASTING.fullmatch(scope["path"]) is not None

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *_HEADERS]
                if lasting and message["status"] == 200:
                    headers = [_KEEP, *((name, value) for name, value in headers if name != _KEEP[0])]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(_under_prefix(scope), receive, marked)


def _under_prefix(scope: Scope) -> Scope:
    """Tell Gradio of the prefix that a reverse proxy has this service under, for the URLs that it makes."""
    given = next((value for name, value in scope["headers"] if name == b"x-forwarded-prefix"), b"")
    prefix = given.decode("latin-1").split(",")[0].strip().rstrip("/")
    if not re.fullmatch(r"(?:/[\w.~-]+)+", prefix):
        return scope
    path = prefix + scope["path"]
    return {**scope, "root_path": prefix, "path": path, "raw_path": path.encode()}
