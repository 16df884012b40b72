"""From logits to the answer: relevance_score, merge, order, top_n. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.errors import InvalidScoreError
from reranker.types import FloatArray, RankedDocument


def relevance_scores(logits: FloatArray) -> NDArray[np.float64]:
    """Turn each pair's logit into its relevance score.

    Args:
        logits: Shape (pairs,), logit("yes") - logit("no").

    Returns:
        Shape (pairs,), in [0, 1]: the sigmoid, which equals the softmax over the two logits read at "yes". Computed in
        float64, where two different logits stay two different scores.

    Raises:
        InvalidScoreError: A logit is NaN or infinite. Sorting would go on without a word and give any order.

    Source: QwenLM/Qwen3-Embedding, examples/qwen3_reranker_transformers.py, compute_logits.
    """
    finite = np.isfinite(logits)
    if not finite.all():
        raise InvalidScoreError(int((~finite).sum()), len(logits))
    # exp of a number <= 0 on both sides of zero: never overflows.
    decay = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay))


def merge(parts: Sequence[tuple[Sequence[int], FloatArray]], pairs: int) -> FloatArray:
    """Put the shards' logits back in the list's order.

    Args:
        parts: For each shard the list indices of its pairs and their logits, shape (pairs of the shard,).
        pairs: Pairs in the list.

    Returns:
        Shape (pairs,).
    """
    merged = np.empty(pairs, dtype=np.float32)
    seen = 0
    for indices, logits in parts:
        if len(indices) != len(logits):
            raise RuntimeError(f"a shard of {len(indices)} pairs came back with {len(logits)} scores. This is a bug.")
        merged[list(indices)] = logits
        seen += len(indices)
    if seen != pairs:
        raise RuntimeError(f"{seen} scores for a list of {pairs} pairs. This is a bug.")
    return merged


def rank(scores: NDArray[np.float64], top_n: int | None, truncated: frozenset[int]) -> tuple[RankedDocument, ...]:
    """Order documents by score, highest first, ties by index, and keep the first top_n (None: all)."""
    order = np.argsort(-scores, kind="stable")[:top_n]
    return tuple(RankedDocument(int(i), float(scores[i]), int(i) in truncated) for i in order)
