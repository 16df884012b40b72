"""What every request passes before a route sees it: limits on its head, the API key; for rankings, the key's limits.

By construction: this wraps the whole application, knows nothing of its routes, and lets in without a key only what is
named in `OPEN` or lies below the playground, on the very path that is then routed.
"""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.access import Keyring
from deployments.http.quotas import Quotas
from deployments.http.replies import refusal
from deployments.ui.visits import UI_PATH
from reranker.config import LimitsConfig
from reranker.dialects.choose import PATHS
from reranker.errors import HeadersTooLargeError, RerankerError, UrlTooLongError
from reranker.record import Timeline
from reranker.search import dialect as search

logger = logging.getLogger(__name__)

OPEN = frozenset({"/", "/health", "/docs", "/openapi.json", "/v1/cluster/auth", "/-/healthz"})
"""Paths that need no key: none of them touches the model."""
METRICS = "/metrics"
"""Needs no key where `access.open_metrics` says so."""
_RANKING = frozenset({*PATHS, *search.PATHS})
"""Paths that the limits of a key are for."""
_OPEN_BELOW = f"{UI_PATH}/"
"""The playground: its page asks for a key, and sends it with what it asks of the service."""
_SLASHES = re.compile("/+")


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN or f"{path}/".startswith(_OPEN_BELOW)


class InternalError(RerankerError):
    """A bug of ours."""

    def __str__(self) -> str:
        return "internal error; the service's log has more"


class Guard:
    """ASGI middleware, within `Observed`. Leaves `caller`, an `access.Caller`, in the request's state."""

    def __init__(self, app: ASGIApp, keys: Keyring, quotas: Quotas, limits: LimitsConfig) -> None:
        """Wrap an application."""
        self._app, self._keys, self._quotas, self._limits = app, keys, quotas, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        # Base URLs come with and without a slash at their end; one form, for the check and for the routing.
        path = _SLASHES.sub("/", "/" + scope["path"].removeprefix(scope.get("root_path", "")))
        path = path.rstrip("/") or "/"
        scope = {**scope, "path": scope.get("root_path", "") + path}
        timeline: Timeline = scope["state"]["timeline"]
        timeline.path = path
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._require_short_head(scope)
            if is_open(path) or (path == METRICS and self._keys.open_metrics):
                await self._app(scope, receive, watched_send)
                return
            caller = self._keys.caller(_authorization(scope))
            scope["state"]["caller"] = caller
            timeline.caller = caller.name
            async with self._quotas.request(caller) if path in _RANKING else nullcontext():
                await self._app(scope, receive, watched_send)
        except RerankerError as error:
            timeline.error = error.code
            await refusal(error, PATHS.get(path))(scope, receive, watched_send)
        except Exception:
            timeline.error = InternalError.code
            logger.exception("request %s failed by a bug", timeline.request_id)
            if not started:
                await refusal(InternalError(), PATHS.get(path))(scope, receive, watched_send)

    def _require_short_head(self, scope: Scope) -> None:
        url = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
        if url > self._limits.max_url_bytes:
            raise UrlTooLongError("URL", url, self._limits.max_url_bytes, "bytes")
        headers = sum(len(name) + len(value) for name, value in scope["headers"])
        if headers > self._limits.max_header_bytes:
            raise HeadersTooLargeError("headers", headers, self._limits.max_header_bytes, "bytes")


def _authorization(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else None
