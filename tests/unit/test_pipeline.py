"""The whole flow of a request without Ray or vLLM: the scorer is a double at the pipeline's own seam."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from reranker.checkpoint import DEMO_MODEL
from reranker.config import LimitsConfig, ModelConfig, PlanningConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, EngineFailedError, InvalidScoreError
from reranker.pipeline import rerank
from reranker.prompt import PromptRenderer
from reranker.types import FloatArray, RankRequest, Shard, ShardScores

CONFIG = RerankerConfig(
    model=ModelConfig(max_pair_tokens=256),
    planning=PlanningConfig(max_shard_tokens=2_000, min_shard_tokens=50),
    limits=LimitsConfig(timeout_s=5),
)
RENDERER = PromptRenderer(DEMO_MODEL, 256, CONFIG.model.instruction)


def _logits_by_length(shard: Shard) -> FloatArray:
    """Longer documents score higher: an order the test can foresee."""
    return np.diff(shard.offsets).astype(np.float32)


class LengthScorer:
    """Scores by document length, and takes turns between replicas."""

    def __init__(self, replicas: int) -> None:
        self.calls: Counter[str] = Counter()
        self._replicas = replicas

    async def __call__(self, shard: Shard) -> ShardScores:
        replica = f"replica-{self.calls.total() % self._replicas}"
        self.calls[replica] += 1
        await asyncio.sleep(0)
        return ShardScores(_logits_by_length(shard), replica, 0.0)


def _request(documents: int, top_n: int | None = None) -> RankRequest:
    return RankRequest("which is longest", tuple("capital " * (i % 7 + 1) for i in range(documents)), top_n=top_n)


async def test_list_over_several_replicas_equals_the_list_in_one_piece() -> None:
    whole = await rerank(_request(60), RENDERER, LengthScorer(1), 1, CONFIG)
    split = await rerank(_request(60), RENDERER, LengthScorer(4), 4, CONFIG)
    assert whole.results == split.results
    assert (whole.shards, whole.replicas) == (1, 1)
    assert (split.shards, split.replicas) == (4, 4)


async def test_documents_come_best_first_ties_by_index() -> None:
    ranking = await rerank(_request(14, top_n=5), RENDERER, LengthScorer(2), 2, CONFIG)
    assert [document.index for document in ranking.results] == [6, 13, 5, 12, 4]


async def test_usage_counts_every_prompt_token() -> None:
    ranking = await rerank(_request(3, top_n=1), RENDERER, LengthScorer(1), 1, CONFIG)
    assert ranking.prompt_tokens == RENDERER.render(_request(3).query, _request(3).documents).prompts.prompt_tokens


async def test_failed_shard_fails_the_list_and_cancels_the_others() -> None:
    cancelled = asyncio.Event()
    calls = 0

    async def score(shard: Shard) -> ShardScores:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EngineFailedError
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    with pytest.raises(EngineFailedError):
        await rerank(_request(60), RENDERER, score, 2, CONFIG)
    assert cancelled.is_set()


async def test_list_that_takes_too_long_is_given_up() -> None:
    cancelled = asyncio.Event()

    async def score(shard: Shard) -> ShardScores:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    hurried = CONFIG.model_copy(update={"limits": LimitsConfig(timeout_s=0.05)})
    with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
        await rerank(_request(3), RENDERER, score, 1, hurried)
    assert cancelled.is_set()


async def test_score_that_is_not_a_number_fails_the_list() -> None:
    async def score(shard: Shard) -> ShardScores:
        return ShardScores(np.full(len(shard), np.nan, dtype=np.float32), "replica", 0.0)

    with pytest.raises(InvalidScoreError):
        await rerank(_request(3), RENDERER, score, 1, CONFIG)
