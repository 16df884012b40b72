"""A shard in an engine: its prompts, its scores, and who waits for them."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import numpy as np

from reranker.record import request_id
from reranker.types import EngineScores, Shard


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What all pairs of a shard have in common. One object, so that whoever has seen it need not look into it again."""

    head: list[int]
    adapter: str = ""
    highest_token: int = 0
    """Of all prompts."""


class Job:
    """Made on the caller's event loop; worked on by the engine's thread."""

    def __init__(self, shard: Shard, weight: float, list_id: str = "") -> None:
        self.shard, self.weight, self.list_id = shard, weight, list_id
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[None] = self.loop.create_future()
        self.logits = np.zeros(len(shard), dtype=np.float32)
        self.scored = np.zeros(len(shard), dtype=np.bool_)
        self.came_s = time.monotonic()
        self.request_id = request_id.get()
        # The rest belongs to the engine's thread.
        self.head: list[int] = shard.head.tolist()
        highest = max(int(one.max(initial=0)) for one in (shard.head, shard.tokens, shard.tail))
        self.common = Common(self.head, shard.adapter, highest)
        self.tail: list[int] = shard.tail.tolist()
        self._offsets: list[int] = shard.offsets.tolist()  # numbers of Python's: NumPy's take longer, for every pair
        self.costs = shard.pair_tokens  # as the sender counts; what the device computes is a little more
        if self.costs:
            self.costs[0] += len(self.head)  # computed once; the other pairs find it in the prefix cache
        self.stepping: set[int] = set()  # numbers of the pairs that the stepper has
        self.left = len(shard)
        self.began_s: float | None = None  # when its first pair was given to the stepper
        self.ended_s: float | None = None

    def prompt(self, position: int) -> list[int]:
        document: list[int] = self.shard.tokens[self._offsets[position] : self._offsets[position + 1]].tolist()
        return [*self.head, *document, *self.tail]

    @property
    def left_tokens(self) -> int:
        """Work of the pairs that are not scored."""
        return sum(cost for cost, scored in zip(self.costs, self.scored.tolist(), strict=True) if not scored)

    def scores(self) -> EngineScores:
        """The scores until now. From any thread: what is marked as scored has its logit already."""
        scored = self.scored.copy()
        ended_s = time.monotonic() if self.ended_s is None else self.ended_s
        began_s = ended_s if self.began_s is None else self.began_s
        return EngineScores(self.logits.copy(), scored, began_s - self.came_s, ended_s - began_s)

    def end(self, error: Exception | None = None) -> None:
        """Wake the caller: everything is scored, or no more scores will come. From the engine's thread."""
        self.ended_s = time.monotonic()
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.set_answer, error)

    def set_answer(self, error: Exception | None = None) -> None:
        """Wake the caller, unless it is awake: cancelled, or timed out meanwhile. On its event loop."""
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)
