"""The whole flow of a request without Ray or vLLM: the scorer is a double at the pipeline's own seam."""

import asyncio
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reranker.checkpoint import DEMO_MODEL
from reranker.config import LimitsConfig, ModelConfig, PlanningConfig, RerankerConfig, RulesConfig
from reranker.errors import DeadlineExceededError, EngineFailedError, InvalidScoreError, UnknownInstructionError
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
        return ShardScores(_logits_by_length(shard), replica)


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
        return ShardScores(np.full(len(shard), np.nan, dtype=np.float32), "replica")

    with pytest.raises(InvalidScoreError):
        await rerank(_request(3), RENDERER, score, 1, CONFIG)


async def test_long_document_is_scored_in_windows_and_counts_as_one() -> None:
    """The best window makes the document's score; the answer has one line for it and says what it took."""
    long = RankRequest("capital", ("china " * 600, "capital " * 20), long_documents="windows", overlap_tokens=10)
    ranking = await rerank(long, RENDERER, LengthScorer(2), 2, CONFIG)
    lines = {document.index: document for document in ranking.results}
    assert set(lines) == {0, 1}
    assert lines[0].windows > 3
    assert lines[1].windows == 1
    assert ranking.pairs == lines[0].windows + 1
    assert ranking.windowed_documents == 1
    assert not any(document.truncated for document in ranking.results)
    whole = await rerank(replace(long, long_documents="truncate"), RENDERER, LengthScorer(1), 1, CONFIG)
    assert ranking.prompt_tokens > whole.prompt_tokens
    assert whole.truncated_documents == 1


async def test_named_instruction_is_its_text() -> None:
    named = await rerank(replace(_request(3), instruction="@medical"), RENDERER, LengthScorer(1), 1, CONFIG)
    text = CONFIG.model.instructions["medical"]
    written = await rerank(replace(_request(3), instruction=text), RENDERER, LengthScorer(1), 1, CONFIG)
    assert named.prompt_tokens == written.prompt_tokens


async def test_unknown_instruction_names_the_known_ones() -> None:
    with pytest.raises(UnknownInstructionError, match="@medical"):
        await rerank(replace(_request(3), instruction="@medicine"), RENDERER, LengthScorer(1), 1, CONFIG)


async def test_top_n_counts_what_the_rules_leave() -> None:
    config = CONFIG.model_copy(update={"rules": RulesConfig(score_threshold=0.9999)})
    ranking = await rerank(_request(14, top_n=3), RENDERER, LengthScorer(1), 1, config)
    assert [document.index for document in ranking.results] == [6, 13, 5][: len(ranking.results)]
    assert all(document.relevance_score >= 0.9999 for document in ranking.results)
    assert {one.rule for one in ranking.excluded} == {"score_threshold"}
