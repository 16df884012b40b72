"""The HTTP application without Ray: real routes and middleware, and at the `Backend` seam a ranking by word count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from deployments.http import Offer
from deployments.http.access import Keyring
from deployments.http.middleware import Observer
from deployments.http.playground import PageAnswer, PageRequest
from deployments.http.routes import build_api
from deployments.http.search import Search
from reranker.config import AccessConfig, LimitsConfig
from reranker.errors import NoPlaygroundError, RerankerError
from reranker.model.verified import Verified
from reranker.ranking.ranker import Ranker
from reranker.ranking.threads import FairThreads
from reranker.record import RequestRecord
from reranker.types import Caller, RankedDocument, Ranking, RankRequest

KEYS = "{team: team-key, batch: {key: batch-key, priority: bulk, max_in_flight: 1}}"
BODY: dict[str, Any] = {"query": "one two", "documents": ["three", "two", "one two"]}


class WordBackend:
    """Scores a document by the share of its words that the query has."""

    model = "words"
    service = "door"
    draining = False
    search: Search | None = None
    adapters: tuple[str, ...] = ()
    cascades: Mapping[str, tuple[str, str]] = {}
    found: Verified | None = None
    states: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.threads = FairThreads()
        self.error: Exception | None = None
        self.cleared = 0
        self.metrics: bytes | None = b""
        self.page_requests: list[PageRequest] = []
        self.page: PageAnswer | Exception = NoPlaygroundError()
        self.callers: list[Caller] = []
        self.lists: list[RankRequest] = []
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    def require_any_room(self, body_bytes: int) -> None:
        """There always is."""

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        self.callers.append(caller)
        self.lists += lists
        self.arrived.set()
        with record.stage("engine"):
            await self.go_on.wait()
        if self.error:
            raise self.error
        return [_rank(request) for request in lists]

    async def load(self) -> Any:
        return {"lists": 0, "tokens": 0, "shards": 0}

    @property
    def offers(self) -> dict[str, Offer]:
        models = dict.fromkeys([self.model, *self.states], Offer())
        adapters = dict.fromkeys(self.adapters, Offer(parent=self.model))
        return models | adapters | {name: Offer(cascade=stages) for name, stages in self.cascades.items()}

    async def models(self) -> Mapping[str, Any]:
        return self.states

    async def verified(self) -> dict[str, Verified]:
        return {self.model: self.found} if self.found else {}

    async def cache_report(self) -> dict[str, Any]:
        return {"enabled": True, "cleared": self.cleared}

    async def comparison(self) -> Any:
        return {"ingress_replicas": 1, "shadows": []}

    async def clear_cache(self) -> None:
        self.cleared += 1

    async def metrics_text(self) -> bytes | None:
        return self.metrics

    async def live_replicas(self) -> int:
        if isinstance(self.error, RerankerError):
            raise self.error
        return 1

    async def replicas_loading(self) -> list[dict[str, Any]]:
        return [{"replica": "a", "stage": "loading", "seconds": 3}]

    async def open_page(self, request: PageRequest) -> PageAnswer:
        self.page_requests.append(request)
        if isinstance(self.page, Exception):
            raise self.page
        return self.page

    def info(self) -> Any:  # Any: stands for TEI's
        return {"model_id": self.model, "model_type": {"reranker": {}}, "max_input_length": 100}


class RankerBackend(WordBackend):
    """Ranks as the service does."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self._ranker = ranker

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        return await self._ranker.rank(lists, caller, record)


def _rank(request: RankRequest) -> Ranking:
    words = set(request.query.split())
    scores = [len(words & set(text.split())) / len(words) for text in request.documents]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = tuple(RankedDocument(index, scores[index], scores[index] - 0.5) for index in order)
    return Ranking(results[: request.top_n], (), 10 * len(order))


def door(
    backend: WordBackend,
    *observers: Observer,
    count: Observer | None = None,
    keys: str = "",
    open_metrics: bool = False,
    cors_origins: tuple[str, ...] = (),
    **limits: Any,
) -> FastAPI:
    """Make the application."""
    keyring = Keyring(AccessConfig(open_metrics=open_metrics, cors_origins=cors_origins), keys)
    return build_api(backend, LimitsConfig(**limits), keyring, observers, count)


@asynccontextmanager
async def visitor(app: ASGIApp, headers: Mapping[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of it."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
        yield client


async def hang_up(app: ASGIApp, backend: WordBackend) -> list[Any]:  # Any: ASGI's messages
    """Ask for a ranking and hang up while it is being made; gives what was sent nevertheless."""
    received, sent = iter([json.dumps(BODY).encode()]), []

    async def receive() -> Any:
        for body in received:
            return {"type": "http.request", "body": body, "more_body": False}
        await backend.arrived.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": [], "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent
