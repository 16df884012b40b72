"""One request, top to bottom: render, plan, score, merge, rules. Knows neither Ray nor HTTP: it is handed a scorer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import numpy as np

from reranker import rules, scoring
from reranker.config import LongDocumentsConfig, RerankerConfig
from reranker.errors import DeadlineExceededError, InvalidRequestError
from reranker.planning import plan
from reranker.prompt import PromptRenderer
from reranker.types import Ranking, RankRequest, Shard, ShardScores
from reranker.windows import CuttingPolicy

Scorer: TypeAlias = Callable[[Shard], Awaitable[ShardScores]]
"""Scores one shard somewhere; cancelling it stops the work there."""


async def rerank(
    request: RankRequest, renderer: PromptRenderer, score: Scorer, replicas: int, config: RerankerConfig
) -> Ranking:
    """Score every document of a list, or none.

    Args:
        request: Query and documents.
        renderer: Makes the prompts.
        score: Sends one shard to a replica.
        replicas: Replicas that can take a shard now.
        config: Limits.

    Raises:
        InvalidRequestError: An instruction for a model that takes none, or one that is not configured.
        QueryTooLongError: The query leaves no room for a document.
        DeadlineExceededError: Not done within `config.limits.timeout_s`.
        ServiceError: A shard could not be scored; the others are cancelled.
    """
    if request.instruction and not renderer.takes_instruction:
        raise InvalidRequestError("instruction", "the model of this service takes none")
    try:
        async with asyncio.timeout(config.limits.timeout_s):
            # In a thread: tokenizing a long list takes a while, and releases the interpreter's lock.
            rendered = await asyncio.to_thread(
                renderer.render,
                request.query,
                request.documents,
                config.model.instruction_text(request.instruction),
                _cutting(request, config.long_documents),
            )
            shards = plan(rendered.pair_tokens, max(1, replicas), config.planning)
            answers = await _score_all([rendered.shard(indices) for indices in shards], score)
    except TimeoutError:
        raise DeadlineExceededError(config.limits.timeout_s) from None
    parts = [(indices, answer.logits) for indices, answer in zip(shards, answers, strict=True)]
    logits = scoring.merge(parts, len(rendered.prompts))
    scoring.require_finite(logits, rendered.document_of_pair)
    how = request.aggregate or config.long_documents.aggregate
    log_odds = scoring.aggregate(logits, rendered.document_of_pair, how)
    windows = np.bincount(rendered.document_of_pair)
    ranked = scoring.rank(log_odds, rendered.truncated, windows)
    kept, excluded = rules.apply(ranked, request, config.rules)
    return Ranking(
        results=kept[: request.top_n],
        excluded=excluded,
        prompt_tokens=rendered.prompts.prompt_tokens,
        pairs=len(rendered.prompts),
        truncated_documents=len(rendered.truncated),
        windowed_documents=int((windows > 1).sum()),
        shards=len(shards),
        replicas=len({answer.replica for answer in answers}),
    )


def _cutting(request: RankRequest, config: LongDocumentsConfig) -> CuttingPolicy:
    """The request's wishes where it has any, the configuration's elsewhere."""
    return CuttingPolicy(
        mode=request.long_documents or config.mode,
        side=request.truncation_side or config.truncation_side,
        max_document_tokens=request.max_document_tokens,
        window_tokens=config.window_tokens,
        overlap_tokens=config.overlap_tokens if request.overlap_tokens is None else request.overlap_tokens,
        max_windows=min(request.max_windows or config.max_windows, config.max_windows),
    )


async def _score_all(shards: list[Shard], score: Scorer) -> list[ShardScores]:
    async def one(shard: Shard) -> ShardScores:  # create_task wants a coroutine; a scorer may be any awaitable
        return await score(shard)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(shard)) for shard in shards]
    except ExceptionGroup as failures:  # several shards may fail; the client hears of the first
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
