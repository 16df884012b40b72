"""Several lists of one request: all are ranked, or none. For pairs with different queries, as `/score` takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from reranker.errors import DeadlineExceededError
from reranker.ranking.admission import Permit, PermitPart
from reranker.types import Ranking, RankRequest

_AT_ONCE = 16
"""Lists of one request under way at the same time: enough to fill the engines, too few to crowd others out."""


async def rank_all(
    lists: Sequence[RankRequest],
    permit: Permit,
    timeout_s: float,
    rank: Callable[[RankRequest, Permit | PermitPart], Awaitable[Ranking]],
) -> list[Ranking]:
    """Rank every list of a request.

    Args:
        lists: At least one.
        permit: For all of them.
        timeout_s: Seconds they have together.
        rank: Ranks one.

    Raises:
        DeadlineExceededError: Time was up before the last one's turn.
        RerankerError: The first that failed; the others are cancelled.
    """
    if len(lists) == 1:
        return [await rank(lists[0], permit)]
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + timeout_s
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(request: RankRequest, part: PermitPart) -> Ranking:
        async with turns:
            left_s = deadline_s - clock()
            if left_s <= 0:
                raise DeadlineExceededError(timeout_s)
            return await rank(replace(request, timeout_s=left_s), part)

    try:
        async with asyncio.TaskGroup() as group:
            parts = zip(lists, permit.split(len(lists)), strict=True)
            tasks = [group.create_task(in_turn(request, part)) for request, part in parts]
    except ExceptionGroup as failures:  # several may fail; the client hears of the first
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
