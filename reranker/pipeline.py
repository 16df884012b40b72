"""One request, read top to bottom: render, plan, score, merge. Knows neither Ray nor HTTP: it is handed a scorer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from reranker import scoring
from reranker.config import RerankerConfig
from reranker.errors import DeadlineExceededError
from reranker.planning import plan
from reranker.prompt import PromptRenderer
from reranker.types import Ranking, RankRequest, Shard, ShardScores

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
        QueryTooLongError: The query leaves no room for a document.
        DeadlineExceededError: Not done within `config.limits.timeout_s`.
        ServiceError: A shard could not be scored; the others are cancelled.
    """
    try:
        async with asyncio.timeout(config.limits.timeout_s):
            # In a thread: tokenizing a long list takes a while, and releases the interpreter's lock.
            rendered = await asyncio.to_thread(renderer.render, request.query, request.documents, request.instruction)
            shards = plan(rendered.pair_tokens, max(1, replicas), config.planning)
            answers = await _score_all([rendered.shard(indices) for indices in shards], score)
    except TimeoutError:
        raise DeadlineExceededError(config.limits.timeout_s) from None
    parts = [(indices, answer.logits) for indices, answer in zip(shards, answers, strict=True)]
    scores = scoring.relevance_scores(scoring.merge(parts, len(request.documents)))
    return Ranking(
        results=scoring.rank(scores, request.top_n, rendered.truncated),
        prompt_tokens=rendered.prompts.prompt_tokens,
        shards=len(shards),
        replicas=len({answer.replica for answer in answers}),
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
