"""Split the pairs of one list into shards. Pure: no clock, no I/O, no Ray."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from reranker.config import PlanningConfig


def plan(pair_tokens: Sequence[int], replicas: int, config: PlanningConfig) -> list[tuple[int, ...]]:
    """Decide which pairs travel together.

    As many shards as there are replicas to work on them, as long as each is worth its hop; more only when a shard
    would exceed its token limit. Balanced by tokens: longest pair first, always onto the lightest shard, which is at
    most 4/3 of the best possible balance (Graham 1969).

    Args:
        pair_tokens: Tokens of each pair; none above `config.max_shard_tokens`.
        replicas: Replicas that can take a shard now; at least 1.
        config: Limits of a shard.

    Returns:
        For each shard the indices of its pairs, rising. Every index is in exactly one shard; no shard is empty.

    Raises:
        ValueError: A pair alone exceeds a shard's limit.
    """
    if not pair_tokens:
        return []
    if max(pair_tokens) > config.max_shard_tokens:
        raise ValueError("a pair exceeds max_shard_tokens; the prompt limit should have prevented it")
    total = sum(pair_tokens)
    worth_a_hop = max(1, total // config.min_shard_tokens)
    count = min(len(pair_tokens), max(min(replicas, worth_a_hop), math.ceil(total / config.max_shard_tokens)))
    while True:
        shards, heaviest = _balance(pair_tokens, count)
        if heaviest <= config.max_shard_tokens:
            return shards
        count = min(len(pair_tokens), count + math.ceil(count / 4))  # ends: one pair per shard always fits


def _balance(pair_tokens: Sequence[int], count: int) -> tuple[list[tuple[int, ...]], int]:
    """Fill `count` shards, longest pair first onto the lightest; give the shards and the heaviest one's tokens."""
    shards: list[list[int]] = [[] for _ in range(count)]
    lightest = [(0, number) for number in range(count)]
    for index in sorted(range(len(pair_tokens)), key=lambda i: -pair_tokens[i]):
        tokens, number = lightest[0]
        shards[number].append(index)
        heapq.heapreplace(lightest, (tokens + pair_tokens[index], number))
    return [tuple(sorted(shard)) for shard in shards if shard], max(tokens for tokens, _ in lightest)
