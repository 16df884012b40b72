"""GET /metrics: the series of all processes on this node, as Prometheus text. For admins and keys with `metrics`."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.responses import Response

from deployments.http import openapi
from deployments.http.keys import Keyring
from reranker.errors import ForbiddenError
from reranker.types import Caller


class MetricsBackend(Protocol):
    """What the route needs of the service."""

    async def metrics_text(self) -> bytes | None:
        """All series of this node; see `reranker.node_metrics`. None: nothing is counted."""
        ...


def add_metrics_routes(api: FastAPI, backend: MetricsBackend, keys: Keyring) -> None:
    """Add the route."""

    @api.get("/metrics", **openapi.METRICS)
    async def metrics(request: Request) -> Response:
        """The series of all processes on this node, as Prometheus text."""
        if keys.needed and not keys.open_metrics:
            caller: Caller = request.state.caller
            if not (caller.metrics or caller.admin):
                raise ForbiddenError
        text = await backend.metrics_text()
        if text is None:
            raise HTTPException(404, "nothing is counted: observability.metrics is false")
        return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
