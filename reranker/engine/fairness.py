"""The order of pairs: weighted fair queueing over the shards in an engine. Pure: no clock but its own, no threads.

Each pair gets a tag, the virtual time at which it would finish if every shard were served at once in proportion to its
weight: the shard's start plus the shard's work up to that pair, divided by its weight. Pairs are taken in the order of
their tags. A shard starts at the tag of the pair taken last (self-clocked fair queueing; S. J. Golestani, INFOCOM
1994), so a small one slips between the pairs of a huge one, and nothing starves, because virtual time moves on. Shards
of one list are one flow: each starts where the one before ends, so that a list has no more for coming in many.
"""

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Self, TypeVar

Flow = TypeVar("Flow", bound=Hashable)
_SCALE = 64  # ticks of virtual time per token at weight 1: tags are integers, as vLLM's priorities are


class Turn(NamedTuple, Generic[Flow]):
    """The pair that is next."""

    flow: Flow
    position: int  # in the shard
    cost: int  # tokens
    tag: int  # virtual finish time


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Flow]):
    """A flow with pairs left, and the virtual time it has reached."""

    flow: Flow
    costs: Sequence[int]
    reached: float
    ticks_per_token: float
    order: int
    list_id: str
    position: int = 0

    @property
    def cost(self) -> int:
        """Of its next pair."""
        return self.costs[self.position]

    def key(self) -> tuple[int, int, Self]:
        """Its place in the heap: the tag of its next pair, then its order, which no other has."""
        return int(self.reached + self.cost * self.ticks_per_token), self.order, self


class FairQueue(Generic[Flow]):
    """Flows of pairs that wait for an engine."""

    def __init__(self, *, by_arrival: bool = False) -> None:
        """With `by_arrival` all pairs of a flow have its number as their tag: first come, first served."""
        self._by_arrival = by_arrival
        self._heap: list[tuple[int, int, _Waiting[Flow]]] = []
        self._flows: dict[Flow, _Waiting[Flow]] = {}
        self._lists: dict[str, tuple[float, int]] = {}  # where the last shard of a list ends; how many of it wait
        self._time = self._pushed = 0

    def __len__(self) -> int:
        """Pairs that wait. From any thread."""
        return sum(len(one.costs) - one.position for one in list(self._flows.values()))

    def push(self, flow: Flow, costs: Sequence[int], weight: float, list_id: str = "") -> None:
        """Add a flow that is not waiting already. Its pairs are taken in the order of their costs, in tokens.

        An empty `list_id`: it is the only one of its list.
        """
        if flow in self._flows:
            raise RuntimeError("this flow waits already. This is a bug.")
        self._pushed += 1
        start, ticks = (self._pushed, 0.0) if self._by_arrival else (self._time, _SCALE / weight)
        reached = float(start)
        if list_id and not self._by_arrival:
            end, others = self._lists.get(list_id, (reached, 0))
            reached = max(reached, end)
            self._lists[list_id] = (reached + sum(costs) * ticks, others + 1)
        waiting = _Waiting(flow, costs, reached, ticks, self._pushed, list_id)
        self._flows[flow] = waiting
        heapq.heappush(self._heap, waiting.key())

    def pop(self, most: float = math.inf, *, pass_by: bool = False) -> Turn[Flow] | None:
        """Take the next pair; None: nothing waits, or it costs more than `most`.

        With `pass_by` the next of those that do not cost more: for while the first has to wait anyway.
        """
        while self._heap and not self._waits(self._heap[0]):
            heapq.heappop(self._heap)
        fitting = (one for one in self._heap if self._waits(one) and one[2].cost <= most) if pass_by else self._heap[:1]
        taken = min(fitting, default=None)
        if taken is None or taken[2].cost > most:
            return None
        tag, _, waiting = taken
        turn = Turn(waiting.flow, waiting.position, waiting.cost, tag)
        self._time = max(self._time, tag)
        waiting.reached += turn.cost * waiting.ticks_per_token
        waiting.position += 1
        if waiting.position == len(waiting.costs):
            self.remove(waiting.flow)
        elif taken is self._heap[0]:
            heapq.heapreplace(self._heap, waiting.key())
        else:
            self._heap[self._heap.index(taken)] = waiting.key()
            heapq.heapify(self._heap)
        return turn

    def _waits(self, one: tuple[int, int, _Waiting[Flow]]) -> bool:
        """Whether its flow was not removed meanwhile."""
        return self._flows.get(one[2].flow) is one[2]

    def remove(self, flow: Flow) -> None:
        """Drop what a flow has left, if anything."""
        gone = self._flows.pop(flow, None)
        if gone is not None and gone.list_id in self._lists:
            end, waiting = self._lists.pop(gone.list_id)
            if waiting > 1:
                self._lists[gone.list_id] = (end, waiting - 1)
