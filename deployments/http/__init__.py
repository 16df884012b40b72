"""The HTTP front: `routes.build_api` makes an ASGI application of a `Backend`, and any ASGI server can carry it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from reranker.dialects.base import JSON
    from reranker.dialects.tei import TeiInfo
    from reranker.model.verified import Verified
    from reranker.ranking.threads import FairThreads
    from reranker.record import RequestRecord
    from reranker.types import Caller, Ranking, RankRequest


VERSION = importlib.metadata.version("reranker")
SERVICE_HEADER = "x-reranker-service"
"""Names the service in the answers of /health, so that no other one comes to listen on the same port."""


class Offer(NamedTuple):
    """What a request can ask for as `model`."""

    parent: str = ""
    """Of an adapter: the model that it is of."""
    root: str = ""
    """Of one model of several: its checkpoint's name."""
    cascade: tuple[str, ...] = ()
    """Of a cascade: its models, in their order."""


class Backend(Protocol):
    """What the routes need of the service."""

    model: str
    """The default model's name, as answers give it."""
    service: str
    """See `SERVICE_HEADER`."""
    threads: FairThreads
    """For work that is too long for the event loop."""
    search: Any
    """A `deployments.http.search.Search`. None: there is no index."""

    @property
    def offers(self) -> Mapping[str, Offer]:
        """Whatever a request can ask for as `model`, by name."""

    @property
    def draining(self) -> bool:
        """Whether it is ending: answers end their connections then."""

    def require_any_room(self, body_bytes: int) -> None:
        """Refuse a body that could not be let in, before it is parsed."""

    async def rank(self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord) -> Sequence[Ranking]:
        """Rank the lists of a request, and note how that goes."""

    async def live_replicas(self) -> int:
        """How many engines of the default model can score; raises NotReadyError when there is none."""

    async def models(self) -> Mapping[str, JSON]:
        """How each of several models is, by name. Empty: there is one only."""

    async def replicas_loading(self) -> list[JSON]:
        """What each replica that is starting does, and for how many seconds."""

    async def metrics_text(self) -> bytes | None:
        """All series of this node. None: nothing is counted."""

    async def load(self) -> JSON:
        """What is in flight."""

    async def verified(self) -> Mapping[str, Verified]:
        """What `reranker verify` found of the models that score, by name, as far as it is known of their state now."""

    async def cache_report(self) -> JSON:
        """What the caches of all ingress replicas hold and have done."""

    async def clear_cache(self) -> None:
        """Forget every score, in all ingress replicas and in what they share; raises CacheUnavailableError."""

    async def comparison(self) -> JSON:
        """How the rankings of each shadow compare, in all ingress replicas together."""

    def open_page(self, request: Any) -> Any:  # its own messages: see `playground.py`
        """Have the playground answer a request."""

    def info(self) -> TeiInfo:
        """What TEI says of itself at /info."""
