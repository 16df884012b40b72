"""A simulated GPU: it takes the time of a real one, and gives every pair a fixed, meaningless score.

A step costs `step_s + tokens / tokens_per_s`, or `host_s_per_pair` for each pair where that is longer, spread by
`jitter`. A list's head is computed once, as with a prefix cache. Everything around the step is the code that drives the
real engine. What this can show: docs/simulated.md.
"""

import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from reranker.config import EngineConfig, SimulatedConfig
from reranker.engine import metrics
from reranker.engine.cards import settings_for
from reranker.engine.job import Common
from reranker.engine.loop import Engine

_HEADS = 64  # in the simulated prefix cache
_LATE_S = 0.005  # the thread's own work between two steps, at most; a longer gap was idleness


def simulated_logit(prompt: Sequence[int], adapter: str = "", seed: int = 0) -> float:
    """The score of a pair: a pure function of tokens, adapter and seed, in [-8, 8], the same in every process."""
    content, salt = np.asarray(prompt, dtype=np.int32).tobytes() + adapter.encode(), seed.to_bytes(16, "little")
    digest = blake2b(content, digest_size=4, salt=salt).digest()
    return float(np.float32(int.from_bytes(digest, "little") / 2**32 * 16 - 8))


class SimulatedStepper:
    """See `reranker.engine.loop.Stepper`."""

    depth = 1
    in_parts = False

    def __init__(self, costs: SimulatedConfig, max_batch_tokens: int, max_batch_pairs: int) -> None:
        self.max_batch_tokens, self.max_batch_pairs = max_batch_tokens, max_batch_pairs
        self._costs = costs
        self._random = random.Random(costs.seed)  # noqa: S311 - jitter, not a secret
        # A heap of (priority, pair, prompt, what it has in common).
        self._waiting: list[tuple[int, int, list[int], Common]] = []
        self._heads: OrderedDict[int, None] = OrderedDict()
        self._free_s = time.monotonic()  # when the device is done with its last batch

    def add(self, pair: int, prompt: list[int], common: Common, priority: int) -> None:
        heapq.heappush(self._waiting, (priority, pair, prompt, common))

    def repeated_tokens(self, head_tokens: int) -> int:
        """None: the prefix cache of this device has no blocks."""
        return 0

    def stats(self) -> metrics.EngineStats:
        return {metrics.VLLM_WAITING: len(self._waiting), metrics.VLLM_RUNNING: 0, metrics.VLLM_KV_USAGE: 0}

    def abort(self, pairs: Sequence[int]) -> None:
        gone = set(pairs)
        self._waiting = [waiting for waiting in self._waiting if waiting[1] not in gone]
        heapq.heapify(self._waiting)

    def step(self, tokens: int | None = None, part_tokens: int = 0) -> list[tuple[int, float]]:
        """Compute a batch, by priority, in the time that it costs."""
        most = min(self.max_batch_tokens, tokens or self.max_batch_tokens)
        done: list[tuple[int, float]] = []
        taken = 0
        while self._waiting and len(done) < self.max_batch_pairs:
            _, pair, prompt, common = self._waiting[0]
            head = hash((common.adapter, *common.head))
            cost = len(prompt) - (len(common.head) if head in self._heads else 0)
            if done and taken + cost > most:
                break
            heapq.heappop(self._waiting)
            self._heads[head] = None
            self._heads.move_to_end(head)
            if len(self._heads) > _HEADS:
                self._heads.popitem(last=False)
            done.append((pair, simulated_logit(prompt, common.adapter, self._costs.score_seed)))
            taken += cost
        if self._random.random() < self._costs.failure_rate:
            raise RuntimeError("a simulated failure, as failure_rate asks")
        # A real loop prepares a batch while the device computes the one before.
        took_s = max(self._costs.step_s + taken / self._costs.tokens_per_s, len(done) * self._costs.host_s_per_pair)
        took_s *= self._random.lognormvariate(0, self._costs.jitter) if self._costs.jitter else 1
        # From when the device was free, not from now: a late wake-up of this thread is not the device's slowness.
        now_s = time.monotonic()
        self._free_s = (self._free_s if now_s - self._free_s < _LATE_S else now_s) + took_s
        time.sleep(max(0.0, self._free_s - now_s))
        return done

    def close(self) -> None:
        """There is nothing to give back."""


def simulated_engine(config: EngineConfig, costs: SimulatedConfig) -> Engine:
    limits = settings_for(config, None)
    return Engine(
        lambda: SimulatedStepper(costs, limits.max_batch_tokens, limits.max_batch_pairs),
        by_arrival=config.scheduling == "fcfs",
        target_step_s=config.target_step_s,
    )
