"""What an ingress does with a list, without Ray and HTTP: one cache, one fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from reranker.cache.memory import MemoryStore
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.ranking.admission import Admission
from reranker.ranking.pipeline import look_up, rerank, share_to_score
from reranker.ranking.scatter import Scatter
from reranker.types import EngineScores, Ranking, RankRequest, ReplicaLoad
from tests.unit.fleets import Call, FakeFleet, by_length
from tests.unit.test_pipeline import CONFIG, RENDERER

TEXTS = tuple("capital " * (i % 7 + 1) + f"{i:03d}" for i in range(200))


class Ingress:
    """One ingress replica."""

    def __init__(
        self, act: Callable[[Call], Awaitable[EngineScores]] = by_length, config: RerankerConfig = CONFIG
    ) -> None:
        self.fleet = FakeFleet(2, act)
        self.memory = MemoryStore(2**20)
        self.cache = ScoreCache(self.memory)
        self.model: str | None = self.fleet.model
        self.config = config
        self._admission = Admission(CONFIG.admission, CONFIG.priorities)
        self._scatter = Scatter(self.fleet, CONFIG.scatter)

    @property
    def pairs(self) -> int:
        """Pairs that engines were sent."""
        return sum(len(call.shard) for call in self.fleet.calls)

    async def rank(self, request: RankRequest, caller: str = "") -> Ranking:
        async with look_up(request, self.cache, RENDERER, self.config, self.model, caller) as lookup:
            work_bytes = round(1_000 * share_to_score(request, lookup))
            with self._admission.permit(work_bytes, request.priority, 5, ReplicaLoad()) as permit:
                return await rerank(request, permit, RENDERER, self._scatter, self.config, lookup)

    def require_idle(self) -> None:
        assert self._admission.tokens_in_flight == 0
        self.cache.check_integrity()
        self._scatter.check_integrity(0)
        self.fleet.require_idle()


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
