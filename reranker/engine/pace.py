"""How fast an engine is, and how large its batches should be: estimated from the steps that it has made. Pure."""

import math
from collections import deque

import numpy as np

from reranker.types import FloatArray

_FIRST_BATCH_TOKENS = 1_024  # before any cost is known
# Of the largest batch's throughput, that any batch gives. For a GPU 0.95 is promised, and whole pairs may fill no more
# than half a batch. On a CPU, which is slow, a newcomer would wait too long.
_SHARE, _SHARE_OF_ONE = 0.98, 0.96
# Steps in which a long pair is computed in parts take so many times the target, as each part attends to all before it:
# with one, long documents lost a sixth of their throughput.
_PARTS_TARGETS, _LEAST_PART_TOKENS = 2.0, 256
_RECENT_STEPS = 64  # that tell what a step costs
_EVERY_STEPS = 16  # costs are estimated anew: it takes 0.2 ms
# Working seconds after which a measurement counts a third: long enough to smooth over steps, short enough to follow a
# change from small lists to full batches.
_MEMORY_S = 5.0


class Pace:
    """Tokens per second of the time that the engine was busy."""

    def __init__(self) -> None:
        self._tokens = self._busy_s = 0.0

    def record(self, tokens: int, busy_s: float) -> None:
        kept = math.exp(-busy_s / _MEMORY_S)
        self._tokens = self._tokens * kept + tokens
        self._busy_s = self._busy_s * kept + busy_s

    @property
    def tokens_per_s(self) -> float | None:
        """None: nothing was measured yet."""
        return self._tokens / self._busy_s if self._tokens and self._busy_s else None


class BatchSize:
    """How many tokens a step should have, from what recent ones took: a fixed time, and a time per token.

    As many as take `target_s`, but at least as many as give nearly the throughput of the largest batch. Where the fixed
    time alone is longer than the target, as on a small GPU with a large model, batches would shrink to single pairs.
    """

    def __init__(self, target_s: float | None, most: int, depth: int = 1) -> None:
        """The target is for all batches under way together; without one every batch has the most tokens."""
        self._target_s, self._most = target_s and target_s / depth, most
        self._share = _SHARE if depth > 1 else _SHARE_OF_ONE
        self._steps: deque[tuple[int, float]] = deque(maxlen=_RECENT_STEPS)
        self._recorded, self._fixed_s = 0, 0.0
        self.tokens = most if target_s is None else min(_FIRST_BATCH_TOKENS, most)
        self.next = self.tokens
        """Not always `tokens`: from steps that are all alike nobody can tell the two costs apart."""
        self.in_parts = self.tokens
        """Of a step in which a long pair is computed in parts."""

    def record(self, tokens: int, took_s: float) -> None:
        """Learn from a step that had so many tokens."""
        if self._target_s is None or not tokens or took_s <= 0:
            return
        self._steps.append((tokens, took_s))
        self._recorded += 1
        if self._recorded % _EVERY_STEPS and self._recorded > _EVERY_STEPS:
            self.next = self.tokens
            return
        sizes, times = np.array(self._steps).T
        differ = bool((sizes < sizes.max() / 2).any())
        full = tokens >= self.tokens / 2  # the size of a smaller step tells what is asked for, not what is given
        token_s = self._costs(sizes, times, differ)
        rate = self._share * self._most / (self._fixed_s + token_s * self._most)
        least = rate * self._fixed_s / (1 - rate * token_s)
        if self._fixed_s > token_s * self._most / 2:
            least = self._most  # hardly shorter with a pair less
        self.tokens = int(min(self._most, max(1, least, (self._target_s - self._fixed_s) / token_s)))
        other = self.tokens // 4 if self.tokens > 4 * _FIRST_BATCH_TOKENS else min(self._most, int(sizes.max()) * 3)
        self.next = self.tokens if differ or not full else other

    def record_in_parts(self, tokens: int, took_s: float) -> None:
        """Learn from such a step: later parts take longer, as each attends to all before it."""
        if self._target_s is not None and took_s > 0:
            fits = tokens * min(2.0, _PARTS_TARGETS * self._target_s / took_s)
            self.in_parts = min(self._most, max(_LEAST_PART_TOKENS, int(fits)))

    def _costs(self, sizes: FloatArray, times: FloatArray, differ: bool) -> float:
        """Estimate the fixed time, and give that per token. By least squares of relative errors, without outliers."""
        ones = np.ones(len(sizes))
        design = np.stack([ones / times, sizes / times], axis=1)
        used = ones > 0
        for _ in range(3 if differ else 0):
            (fixed_s, token_s), *_ = np.linalg.lstsq(design[used], ones[used], rcond=None)
            errors = np.abs(design @ (fixed_s, token_s) - 1)
            used = errors <= 3 * np.median(errors) + 1e-9
            self._fixed_s = min(max(0.0, float(fixed_s)), 0.99 * float(times.min()))
        return max(1e-12, float(np.median((times - self._fixed_s) / sizes)))
