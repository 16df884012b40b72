"""GET /metrics: the series of all processes on this node, as Prometheus text. For admins and keys with `metrics`."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import PlainTextResponse, Response

from deployments.http.access import Keyring
from deployments.http.responses import describe
from reranker.errors import ForbiddenError, NotFoundError
from reranker.types import Caller


class MetricsBackend(Protocol):
    """What the route needs of the service."""

    async def metrics_text(self) -> bytes | None:
        """All series of this node; see `reranker.node_metrics`. None: nothing is counted."""
        ...


def add_metrics_routes(api: FastAPI, backend: MetricsBackend, keys: Keyring) -> None:
    """Add the route."""

    @api.get("/metrics", response_class=PlainTextResponse, **describe(None, 403, 404))
    async def metrics(request: Request) -> Response:
        """The series of all processes on this node, as Prometheus text."""
        if keys.needed and not keys.open_metrics:
            caller: Caller = request.state.caller
            if not (caller.metrics or caller.admin):
                raise ForbiddenError
        text = await backend.metrics_text()
        if text is None:
            raise NotFoundError("nothing is counted: observability.metrics is false")
        return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
