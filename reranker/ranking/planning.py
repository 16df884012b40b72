"""Split the pairs of one list into shards. Pure: no clock, no I/O, no Ray."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np

from reranker.config import PlanningConfig


def plan(pair_tokens: Sequence[int], loads: Sequence[int], config: PlanningConfig) -> list[tuple[int, ...]]:
    """Decide which pairs travel together: for each shard their indices, rising; the heaviest first, and none empty.

    As few shards as bring the list's estimated end within `config.slack` of the earliest possible, each worth its hop;
    more only when a shard would exceed its token limit. The least loaded replicas, by the tokens they have to do
    already, get one each, so large that all end together: the longest pair first, always to where least is to be done,
    which is at most 4/3 of the best balance (Graham 1969). ValueError: a pair alone exceeds a shard's limit.
    """
    if not pair_tokens:
        return []
    if max(pair_tokens) > config.max_shard_tokens:
        raise ValueError("a pair exceeds max_shard_tokens; the prompt limit should have prevented it")
    total = sum(pair_tokens)
    wanted = max(_useful_shards(total, loads, config), math.ceil(total / config.max_shard_tokens))
    count = min(len(pair_tokens), wanted)
    busy = sorted(loads)[:count] if count <= len(loads) else [0] * count
    shards, heaviest = _balance(pair_tokens, busy)
    if heaviest > config.max_shard_tokens:
        # The fewest that fit. One shard more never makes the heaviest heavier, and one pair per shard always fits.
        counts = range(len(shards), len(pair_tokens))
        fits = bisect.bisect_left(
            counts, True, key=lambda more: _balance(pair_tokens, [0] * more)[1] <= config.max_shard_tokens
        )
        shards, _ = _balance(pair_tokens, [0] * (len(shards) + fits))
    return shards


def most_shards(pair_tokens: Sequence[int], config: PlanningConfig) -> int:
    """The most shards that `plan` cuts a list into; a few more if its pairs do not fill them."""
    total = sum(pair_tokens)
    worth_their_hop = max(1, total // config.min_shard_tokens, math.ceil(total / config.max_shard_tokens))
    return min(max(1, len(pair_tokens)), worth_their_hop)


def _useful_shards(total: int, loads: Sequence[int], config: PlanningConfig) -> int:
    """The fewest shards with which a list of so many tokens ends about as early as it can.

    With k shards it ends when the k least loaded replicas have done their work and the list. On idle replicas all are
    useful; the more there is to do already, the less a finer cut brings.
    """
    ends: list[float] = []
    before = 0
    for number, load in enumerate(sorted(loads), start=1):
        before += load
        end = (before + total) / number
        if ends and end - load < config.min_shard_tokens:  # not worth the hop, nor is any after it
            break
        ends.append(end)
    good_enough = (1 + config.slack) * min(ends)
    return next(number for number, end in enumerate(ends, start=1) if end <= good_enough)


def _balance(pair_tokens: Sequence[int], busy: Sequence[int]) -> tuple[list[tuple[int, ...]], int]:
    """Make a shard for each replica with so much to do; give them and the heaviest's tokens.

    There is none for a replica that has more to do than the others with their shards.
    """
    shards: list[list[int]] = [[] for _ in busy]
    to_do = sorted((load, number) for number, load in enumerate(busy))  # sorted: a heap
    for index in sorted(range(len(pair_tokens)), key=lambda i: -pair_tokens[i]):
        tokens, number = to_do[0]
        shards[number].append(index)
        heapq.heapreplace(to_do, (tokens + pair_tokens[index], number))
    weights = sorted(((tokens - busy[number], number) for tokens, number in to_do), reverse=True)
    return [tuple(sorted(shards[number])) for _, number in weights if shards[number]], weights[0][0]


_ENDS = (0.15, 0.45, 1.0)  # of the portions, as shares of the characters: each about twice the one before
_MOST_TOKENS, _WIDE_TOKENS = 600_000, 4  # of a portion; of a character that is not ASCII's
_LONG_CHARACTERS = 100_000  # a list below that is tokenized in 30 ms at most: not worth more hops


def portions(documents: Sequence[str]) -> Iterator[Sequence[str]]:
    """Give the documents of a list in order, in portions; none is empty.

    None but that of a single document is so large that its tokens, some 250 bytes each while they are made, take more
    than some 100 MB.
    """
    ends = np.cumsum([len(document) for document in documents])
    tokens = np.cumsum([len(one) if one.isascii() else _WIDE_TOKENS * len(one) for one in documents])
    few = len(ends) < len(_ENDS) or ends[-1] < _LONG_CHARACTERS
    if few and (not documents or tokens[-1] <= _MOST_TOKENS):
        yield documents
        return
    start = 0
    for share in _ENDS:
        last = int(np.searchsorted(ends, share * ends[-1])) + 1 if share < 1 else len(documents)
        while start < last:
            most = (tokens[start - 1] if start else 0) + _MOST_TOKENS
            end = min(last, max(start + 1, int(np.searchsorted(tokens, most, side="right"))))
            yield documents[start:end]
            start = end
