"""Nobody waits for a huge list, nobody starves, nobody gets more than the share its weight buys."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reranker.engine.fairness import FairQueue, Turn

COSTS = st.lists(st.integers(1, 500), min_size=1, max_size=20)
WEIGHT = st.sampled_from([0.5, 1.0, 2.0, 8.0])


def _drain(queue: FairQueue[str]) -> list[Turn[str]]:
    turns = []
    while (turn := queue.pop()) is not None:
        turns.append(turn)
    return turns


@given(flows=st.lists(st.tuples(COSTS, WEIGHT), max_size=8))
def test_every_pair_gets_exactly_one_turn_and_a_flow_keeps_its_order(flows: list[tuple[list[int], float]]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, (costs, weight) in enumerate(flows):
        queue.push(str(number), costs, weight)
    assert len(queue) == sum(len(costs) for costs, _ in flows)
    turns = _drain(queue)
    for number, (costs, _) in enumerate(flows):
        own = [turn for turn in turns if turn.flow == str(number)]
        assert [turn.position for turn in own] == list(range(len(costs)))
        assert [turn.cost for turn in own] == costs
    assert len(turns) == sum(len(costs) for costs, _ in flows)
    assert len(queue) == 0


@given(first=COSTS, second=COSTS, weights=st.tuples(WEIGHT, WEIGHT))
def test_work_is_shared_in_proportion_to_the_weights_at_every_moment(
    first: list[int], second: list[int], weights: tuple[float, float]
) -> None:
    """While both have pairs left, neither is ahead of the other by more than one pair each, in work over weight."""
    queue: FairQueue[str] = FairQueue()
    for flow, costs, weight in zip("ab", (first, second), weights, strict=True):
        queue.push(flow, costs, weight)
    bound = max(first) / weights[0] + max(second) / weights[1] + 1 / 32  # tags are whole ticks of 1/64 token
    served: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    while (turn := queue.pop()) is not None:
        if turns["a"] == len(first) or turns["b"] == len(second):
            break  # one of them has nothing left: the other may have it all
        served[turn.flow] += turn.cost
        turns[turn.flow] += 1
        assert abs(served["a"] / weights[0] - served["b"] / weights[1]) <= bound


def _others_before_the_end_of(queue: FairQueue[str], small: list[int], weight: float) -> int:
    """Add a small flow, and give the work of others that is done before its last pair."""
    queue.push("small", small, weight)
    meanwhile, left = 0, len(small)
    while left and (turn := queue.pop()) is not None:
        if turn.flow == "small":
            left -= 1
        else:
            meanwhile += turn.cost
    return meanwhile


@given(
    huge=st.lists(st.integers(1, 500), min_size=50, max_size=100),
    before=st.integers(0, 49),
    small=st.lists(st.integers(1, 500), min_size=1, max_size=5),
    weight=WEIGHT,
)
def test_small_flow_that_comes_late_waits_for_no_more_than_its_own_share_of_the_huge_one(
    huge: list[int], before: int, small: list[int], weight: float
) -> None:
    """What it costs to be small does not depend on how much of the huge one is left, or was done before."""
    queue: FairQueue[str] = FairQueue()
    queue.push("huge", huge, 1)
    for _ in range(before):
        queue.pop()
    assert _others_before_the_end_of(queue, small, weight) <= sum(small) / weight + max(huge) + 1


@given(cost=st.integers(1, 300), small=st.integers(1, 300), weight=WEIGHT)
def test_endless_stream_of_small_flows_starves_nobody(cost: int, small: int, weight: float) -> None:
    """Each newcomer starts at the present, never before a pair that waits already."""
    queue: FairQueue[str] = FairQueue()
    queue.push("old", [cost], 1)
    bound = cost * weight / small + 2
    for number in range(10_000):
        queue.push(f"new {number}", [small], weight)
        turn = queue.pop()
        assert turn is not None
        if turn.flow == "old":
            break
    assert number <= bound


def test_weight_decides_between_two_that_come_together() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("bulk", [10] * 8, 1)
    queue.push("interactive", [10] * 8, 8)
    assert [turn.flow for turn in _drain(queue)][:9] == ["interactive"] * 7 + ["bulk", "interactive"]


def test_first_come_is_first_served_where_that_is_asked_for() -> None:
    """To compare with: a small list behind a huge one waits for all of it, whatever its weight."""
    queue: FairQueue[str] = FairQueue(by_arrival=True)
    queue.push("huge", [10] * 3, 1)
    queue.push("small", [1], 8)
    turns = _drain(queue)
    assert [turn.flow for turn in turns] == ["huge"] * 3 + ["small"]
    assert [turn.tag for turn in turns] == sorted(turn.tag for turn in turns)


def test_flow_cannot_wait_twice_at_once_but_again_later() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", [1, 1], 1)
    with pytest.raises(RuntimeError, match="This is a bug"):
        queue.push("a", [1], 1)
    queue.pop()
    queue.remove("a")
    queue.push("a", [5], 1)
    assert [(turn.flow, turn.cost) for turn in _drain(queue)] == [("a", 5)]


class AnyUse(RuleBasedStateMachine):
    """Push, pop and remove in any order: the count is right, tags never fall, and nothing is served after removal."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.waiting: dict[int, int] = {}
        self.pushed = self.last_tag = 0

    @rule(costs=COSTS, weight=WEIGHT)
    def push(self, costs: list[int], weight: float) -> None:
        self.pushed += 1
        self.queue.push(self.pushed, costs, weight)
        self.waiting[self.pushed] = len(costs)

    @rule(pairs=st.integers(1, 10))
    def pop(self, pairs: int) -> None:
        for _ in range(pairs):
            turn = self.queue.pop()
            if turn is None:
                assert not self.waiting
                return
            assert turn.tag >= self.last_tag
            self.last_tag = turn.tag
            self.waiting[turn.flow] -= 1
            if not self.waiting[turn.flow]:
                del self.waiting[turn.flow]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        flow = data.draw(st.sampled_from(sorted(self.waiting)))
        self.queue.remove(flow)
        self.queue.remove(flow)  # once more does nothing
        del self.waiting[flow]

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == sum(self.waiting.values())


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=30, stateful_step_count=30)


@given(shards=st.integers(1, 30), cost=st.integers(1, 500), small=st.lists(st.integers(1, 500), min_size=1, max_size=5))
def test_list_in_many_shards_has_no_more_than_in_one(shards: int, cost: int, small: list[int]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(shards):
        queue.push(f"huge {number}", [cost] * 5, 1, "a list")
    queue.pop()
    assert _others_before_the_end_of(queue, small, 1) <= sum(small) + cost + 1
    while queue.pop() is not None:
        pass
    assert not queue._lists


def test_shard_that_is_dropped_leaves_nothing_of_its_list() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a", "b"):
        queue.push(name, [1, 1], 1, "a list")
        queue.remove(name)
    assert not queue._lists
