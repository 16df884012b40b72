"""GET /metrics: the figures of all replicas together, as Prometheus text. For keys with `metrics: true` and admins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from deployments.http.keys import Keyring
from deployments.http.responses import describe
from reranker.errors import ForbiddenError, NotFoundError
from reranker.metrics import COUNTED
from reranker.metrics.exposition import CONTENT_TYPE, exposition
from reranker.types import Caller


class MetricsBackend(Protocol):
    """What the route needs of the service."""

    async def metric_totals(self) -> Mapping[str, float] | None:
        """Sums over all replicas, by cell; see `reranker.metrics.ledger`. None: nothing is counted."""
        ...


def add_metrics_routes(api: FastAPI, backend: MetricsBackend, keys: Keyring) -> None:
    """Add the route."""

    @api.get("/metrics", response_class=PlainTextResponse, **describe(None, 403, 404))
    async def metrics(request: Request) -> Response:
        """The figures of all replicas together, as Prometheus text."""
        if keys.needed and not keys.open_metrics:
            caller: Caller = request.state.caller
            if not (caller.metrics or caller.admin):
                raise ForbiddenError
        totals = await backend.metric_totals()
        if totals is None:
            raise NotFoundError("nothing is counted: observability.metrics is false")
        return Response(exposition(COUNTED, totals), headers={"content-type": CONTENT_TYPE})
