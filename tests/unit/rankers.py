"""A service's ranker without Ray and HTTP: the real one, over a fleet that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reranker.cache.memory import MemoryStore
from reranker.cache.score_cache import ScoreCache
from reranker.config import LimitsConfig, ModelConfig, PlanningConfig, RerankerConfig
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import PromptRenderer
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, Caller, EngineScores, Ranking, RankRequest
from tests.unit.fleets import Call, FakeFleet, by_length

CONFIG = RerankerConfig(
    model=ModelConfig(max_pair_tokens=256),
    planning=PlanningConfig(max_shard_tokens=2_000, min_shard_tokens=50),
    limits=LimitsConfig(timeout_s=5),
)
RENDERER = PromptRenderer(DEMO_MODEL, 256, CONFIG.model.instruction)
TEXTS = tuple("capital " * (i % 7 + 1) + f"{i:03d}" for i in range(200))
BODY_BYTES = 1_000


@dataclass(frozen=True)
class Ranked:
    """A list's ranking, and from its request's record what that took, as one."""

    ranking: Ranking
    record: RequestRecord

    @property
    def shards(self) -> int:
        return len(self.record.shards)

    def __getattr__(self, name: str) -> Any:  # whatever the two have
        return getattr(self.ranking if hasattr(self.ranking, name) else self.record, name)


async def rank(ranker: Ranker, request: RankRequest, caller: Caller = ANONYMOUS) -> Ranked:
    """Rank one list, as a request of its own."""
    record = RequestRecord("an-id")
    record.body_bytes = BODY_BYTES
    [ranking] = await ranker.rank([request], caller, record)
    return Ranked(ranking, record)


async def rank_once(
    request: RankRequest,
    fleet: FakeFleet,
    config: RerankerConfig = CONFIG,
    renderer: PromptRenderer = RENDERER,
) -> Ranked:
    """Rank one list with a ranker of its own, and see that nothing is left behind, however it ends."""
    ranker = Ranker(config, renderer, fleet)
    try:
        return await rank(ranker, request)
    finally:
        require_idle(ranker, fleet)


def require_idle(ranker: Ranker, fleet: FakeFleet) -> None:
    """Nothing is in flight, and nothing is left running."""
    assert (ranker.admission.lists_in_flight, ranker.admission.tokens_in_flight) == (0, 0)
    ranker.check_integrity()
    fleet.require_idle()


class Ingress:
    """One ingress replica, with a cache in memory."""

    def __init__(
        self, act: Callable[[Call], Awaitable[EngineScores]] = by_length, config: RerankerConfig = CONFIG
    ) -> None:
        self.fleet = FakeFleet(2, act)
        self.memory = MemoryStore(2**20)
        self.cache = ScoreCache(self.memory)
        self.ranker = Ranker(config, RENDERER, self.fleet, self.cache)

    @property
    def pairs(self) -> int:
        """Pairs that engines were sent."""
        return sum(len(call.shard) for call in self.fleet.calls)

    async def rank(self, request: RankRequest, caller: str = "") -> Ranked:
        return await rank(self.ranker, request, replace(ANONYMOUS, name=caller))

    def require_idle(self) -> None:
        require_idle(self.ranker, self.fleet)


def request_for(documents: Sequence[str] = TEXTS[:20], **fields: Any) -> RankRequest:
    return RankRequest("which is longest", tuple(documents), **fields)


class Gate:
    """Replicas that score when the gate is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self, call: Call) -> EngineScores:
        await self._open.wait()
        return await by_length(call)

    def open(self) -> None:
        self._open.set()


async def until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not so():  # noqa: ASYNC110 - the renderer's thread has no event to wait for
            await asyncio.sleep(0.001)
