"""Split the pairs of one list into shards. Pure: no clock, no I/O, no Ray."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence

from reranker.config import PlanningConfig


def plan(pair_tokens: Sequence[int], loads: Sequence[int], config: PlanningConfig) -> list[tuple[int, ...]]:
    """Decide which pairs travel together.

    As few shards as bring the list's estimated end within `config.slack` of the earliest possible, as long as each is
    worth its hop; more only when a shard would exceed its token limit. Balanced by tokens: longest pair first, always
    onto the lightest shard, which is at most 4/3 of the best possible balance (Graham 1969).

    Args:
        pair_tokens: Tokens of each pair; none above `config.max_shard_tokens`.
        loads: Tokens that each replica which can take a shard has to do already; at least one replica.
        config: Limits of a shard.

    Returns:
        For each shard the indices of its pairs, rising; the heaviest shard first. Every index is in exactly one shard;
        no shard is empty.

    Raises:
        ValueError: A pair alone exceeds a shard's limit.
    """
    if not pair_tokens:
        return []
    if max(pair_tokens) > config.max_shard_tokens:
        raise ValueError("a pair exceeds max_shard_tokens; the prompt limit should have prevented it")
    total = sum(pair_tokens)
    worth_a_hop = max(1, total // config.min_shard_tokens)
    wanted = min(worth_a_hop, _useful_shards(total, loads, config.slack))
    count = min(len(pair_tokens), max(wanted, math.ceil(total / config.max_shard_tokens)))
    shards, heaviest = _balance(pair_tokens, count)
    if heaviest > config.max_shard_tokens:
        # The fewest that fit. One shard more never makes the heaviest heavier, and one pair per shard always fits.
        counts = range(count + 1, len(pair_tokens))
        fits = bisect.bisect_left(
            counts, True, key=lambda more: _balance(pair_tokens, more)[1] <= config.max_shard_tokens
        )
        shards, _ = _balance(pair_tokens, count + 1 + fits)
    return shards


def _useful_shards(total: int, loads: Sequence[int], slack: float) -> int:
    """The fewest shards with which a list of so many tokens ends about as early as it can.

    Shards go to the least loaded replicas, so with k of them the list ends when the k-th of these has done what it has
    and its part. On idle replicas all are useful; the more there is to do already, the less a finer cut brings.
    """
    ends = [load + total / number for number, load in enumerate(sorted(loads), start=1)]
    good_enough = (1 + slack) * min(ends)
    return next(number for number, end in enumerate(ends, start=1) if end <= good_enough)


def _balance(pair_tokens: Sequence[int], count: int) -> tuple[list[tuple[int, ...]], int]:
    """Fill `count` shards, longest pair first onto the lightest; give the shards and the heaviest one's tokens."""
    shards: list[list[int]] = [[] for _ in range(count)]
    lightest = [(0, number) for number in range(count)]
    for index in sorted(range(len(pair_tokens)), key=lambda i: -pair_tokens[i]):
        tokens, number = lightest[0]
        shards[number].append(index)
        heapq.heapreplace(lightest, (tokens + pair_tokens[index], number))
    by_weight = [number for _, number in sorted(lightest, reverse=True)]
    return [tuple(sorted(shards[number])) for number in by_weight if shards[number]], max(lightest)[0]
