"""Doubles at the seam `reranker.engine.loop.Stepper`: the simulated device, held back step by step."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from reranker.config import SimulatedConfig
from reranker.engine.job import Common
from reranker.engine.simulated import SimulatedStepper, simulated_logit
from reranker.types import Shard

QUICK = SimulatedConfig(tokens_per_s=1e9, step_s=0, jitter=0)
REFUSED_TOKEN = 666


class GatedStepper(SimulatedStepper):
    """Takes each step only when the test lets it, and writes down whose pairs it took. Refuses one token."""

    def __init__(self, max_batch_tokens: int = 1_000_000, max_batch_pairs: int = 4) -> None:
        super().__init__(QUICK, max_batch_tokens, max_batch_pairs)
        self.gate = threading.Semaphore(0)
        self.steps_begun = 0
        self.served: list[int] = []
        """The first token of each pair that was computed: which list it is of."""
        self.aborted: list[int] = []
        self.fail = self.closed = False
        self.forgets = True
        """Whether a pair that is taken back is not computed."""
        self.begun: list[int] = []
        """How many pairs each step began."""
        self.repeated = 0
        """Tokens of a head that each pair computes."""
        self._prompts: dict[int, list[int]] = {}

    def repeated_tokens(self, head_tokens: int) -> int:
        return self.repeated

    @property
    def added(self) -> int:
        """Pairs that it was given."""
        return len(self._prompts)

    def let(self, steps: int = 2_000) -> None:
        self.gate.release(steps)

    def add(self, pair: int, prompt: list[int], common: Common, priority: int) -> None:
        if REFUSED_TOKEN in prompt:
            raise ValueError("a prompt with this token")
        self._prompts[pair] = prompt
        super().add(pair, prompt, common, priority)

    def abort(self, pairs: Sequence[int]) -> None:
        self.aborted += pairs
        if self.forgets:
            super().abort(pairs)

    def step(self, tokens: int | None = None, part_tokens: int = 0) -> list[tuple[int, float]]:
        self.steps_begun += 1
        self.gate.acquire()
        if self.fail:
            raise RuntimeError("device lost")
        done = super().step(tokens)
        self.begun.append(len(done))
        self.served += [self._prompts[pair][0] for pair, _ in done]
        return done

    def close(self) -> None:
        self.closed = True


class DeepStepper(GatedStepper):
    """Has two batches under way, as a GPU has: it begins one, and then gives the results of the one before."""

    depth = 2

    def __init__(self, max_batch_tokens: int = 1_000_000, max_batch_pairs: int = 4) -> None:
        super().__init__(max_batch_tokens, max_batch_pairs)
        self.under_way: deque[list[tuple[int, float]]] = deque()
        self.most_under_way = 0

    def step(self, tokens: int | None = None, part_tokens: int = 0) -> list[tuple[int, float]]:
        begun = SimulatedStepper.step(self, tokens)
        self.begun.append(len(begun))
        self.served += [self._prompts[pair][0] for pair, _ in begun]
        self.under_way.append(begun)
        self.most_under_way = max(self.most_under_way, sum(map(bool, self.under_way)))
        if begun and len(self.under_way) < self.depth:
            return []
        self.steps_begun += 1
        self.gate.acquire()
        return self.under_way.popleft()


class PartsStepper(GatedStepper):
    """Computes a part of a long pair in a step, as vLLM on a CPU does: pairs that it has begun go first."""

    in_parts = True

    def __init__(self) -> None:
        super().__init__(max_batch_pairs=100)
        self.steps: list[int] = []
        """How many tokens each computed."""
        self._left: dict[int, int] = {}  # tokens of the pairs that it has begun

    def abort(self, pairs: Sequence[int]) -> None:
        super().abort(pairs)
        self._left = {pair: left for pair, left in self._left.items() if pair not in pairs}

    def step(self, tokens: int | None = None, part_tokens: int = 0) -> list[tuple[int, float]]:
        self.steps_begun += 1
        self.gate.acquire()
        room = tokens or self.max_batch_tokens
        waiting = {pair: len(prompt) for _, pair, prompt, _ in sorted(self._waiting, key=lambda one: one[:2])}
        several = len(self._left | waiting) > 1
        for pair, left in {**self._left, **waiting}.items():
            computed = min(self._left.get(pair, left), room, part_tokens if part_tokens and several else room)
            self._left[pair] = self._left.get(pair, left) - computed
            room -= computed
            if not room:
                break
        self.steps.append((tokens or self.max_batch_tokens) - room)
        done = [(pair, prompt, common) for _, pair, prompt, common in self._waiting if not self._left.get(pair, 1)]
        super().abort([pair for pair, *_ in done])
        for pair, *_ in done:
            del self._left[pair], self.aborted[self.aborted.index(pair)]
        self.served += [prompt[0] for _, prompt, _ in done]
        return [(pair, simulated_logit(prompt, common.adapter)) for pair, prompt, common in done]


def shard(name: int, pairs: int, document_tokens: int = 3) -> Shard:
    """A shard of one list: its head begins with the list's name, and its documents differ."""
    head, tail = np.array([name, 1, 2], dtype=np.int32), np.array([9], dtype=np.int32)
    tokens = np.arange(pairs * document_tokens, dtype=np.int32) + 1_000
    return Shard(head, tail, tokens, np.arange(pairs + 1, dtype=np.int32) * document_tokens)


def expected(one: Shard) -> list[float]:
    """What the simulated engine must give for these pairs, in any company."""
    documents = [one.tokens[a:b] for a, b in zip(one.offsets, one.offsets[1:], strict=False)]
    return [simulated_logit(np.concatenate([one.head, document, one.tail]).tolist()) for document in documents]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the engine's thread, which has no event to wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.0005)
