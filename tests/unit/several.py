"""Several models in one ingress without Ray: the real `Models`, over simulated engines that take no time."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np

from deployments.engine_replica import served_model
from deployments.models import Model, Models
from reranker.cache.memory import MemoryStore
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.engine.simulated import simulated_logit
from reranker.model.prompt import PromptRenderer
from reranker.record import RequestRecord
from reranker.types import (
    ANONYMOUS,
    Caller,
    EngineScores,
    Ranking,
    RankRequest,
    ReplicaLoad,
    Shard,
    ShardScores,
)
from tests.unit.rankers import RENDERER

QUERY = "which is longest"
TEXTS = tuple("capital " * (i % 7 + 1) + f"{i:03d}" for i in range(60))
MODELS: dict[str, Any] = {
    name: {"max_pair_tokens": 256, "engine": {"simulated": {"score_seed": seed}}}
    for seed, name in enumerate(("fast", "best"))
}
CASCADES = {"careful": {"first": "fast", "then": "best", "keep": 5}}


def settings(**more: Any) -> RerankerConfig:
    """A configuration of two models, `fast`, the default, and `best`, and of a cascade of the two, `careful`."""
    base: dict[str, Any] = {
        "models": MODELS,
        "default": "fast",
        "cascades": CASCADES,
        "cache": {"enabled": True},
        "limits": {"timeout_s": 5},
    }
    return RerankerConfig.model_validate(base | more)


class _Handle:
    """A deployment whose replicas cannot be called: they are told to the ingress."""

    def __init__(self, name: str) -> None:
        self.deployment_name = f"{name}-{uuid.uuid4().hex}"  # `replicas_of` remembers each
        self.named_load = self

    async def remote(self) -> None:
        """Answer that there is one."""


class Service:
    """The models of a configuration, each with one engine."""

    def __init__(self, config: RerankerConfig) -> None:
        self.cache = ScoreCache(MemoryStore(2**22))
        engines = [_Handle(name) for name in config.each_model()]
        # To make a renderer takes a third of a second, and all would be the same: the demo model's.
        with patch.object(PromptRenderer, "of", lambda *_, **__: RENDERER):
            self.models = Models(config, engines, self.cache)
            self.served = {one.name: served_model(one.config, "cpu") for one in self.models.all}
        self.by_name = {one.name: one for one in self.models.all}
        self.tokens: Counter[str] = Counter()
        """That each model's engine has computed."""
        self.before_scoring: dict[str, Callable[[], Awaitable[object]]] = {}
        self.record = RequestRecord()
        """Of the last request."""
        self.failed: set[str] = set()
        """Models that Serve has given up starting."""
        self.models._failures = self._failures  # type: ignore[method-assign]
        self.models._run = self._run  # type: ignore[method-assign]
        for one in self.models.all:
            one.fleet._first_asked_s = -100.0  # long ago: nobody waits to hear of engines that there may be
            one.fleet.score = partial(self._score, one)
            self.start(one.name)

    def start(self, name: str) -> None:
        model = self.by_name[name]
        model.placement.set_live([f"{name}-1"], {f"{name}-1": self.served[name]})

    def stop(self, name: str) -> None:
        self.by_name[name].placement.set_live([])

    async def _failures(self) -> frozenset[str]:
        return frozenset(self.by_name[name].deployment for name in self.failed)

    async def _run(self, model: Model) -> bool:
        return False

    async def _score(self, model: Model, replica: str, shard: Shard, terms: object) -> ShardScores:
        if act := self.before_scoring.get(model.name):
            await act()
        self.tokens[model.name] += shard.work_tokens
        simulated = model.config.engine.simulated
        assert simulated
        head, tail, ends = shard.head.tolist(), shard.tail.tolist(), shard.offsets.tolist()
        prompts = [head + shard.tokens[start:end].tolist() + tail for start, end in pairwise(ends)]
        logits = [simulated_logit(one, shard.adapter, simulated.score_seed) for one in prompts]
        scores = EngineScores(np.array(logits, np.float32), np.ones(len(prompts), np.bool_))
        return ShardScores(scores, replica, ReplicaLoad(), self.served[model.name].identity)

    async def rank(
        self, model: str | None = None, texts: Sequence[str] = TEXTS, caller: Caller = ANONYMOUS, **fields: Any
    ) -> Ranking:
        """Rank one list, as a request of its own."""
        self.record = RequestRecord("an-id")
        self.record.body_bytes = sum(map(len, texts))
        request = RankRequest(QUERY, tuple(texts), model=model, **fields)
        [ranking] = await self.models.rank([request], caller, self.record)
        return ranking

    def require_idle(self) -> None:
        for one in self.models.all:
            one.ranker.check_integrity()
            assert one.load() == {"lists": 0, "tokens": 0, "shards": 0}


def order(ranking: Ranking) -> list[int]:
    return [one.index for one in ranking.results]


def scores(ranking: Ranking) -> dict[int, float]:
    return {one.index: one.log_odds for one in ranking.results}
