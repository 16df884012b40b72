"""Shards of one list side by side, the least loaded replica first, and every token counted and taken off again."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reranker.ranking.placement import Placement, Route, Shortlist
from reranker.types import ReplicaLoad


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _placement(*replicas: str, clock: Clock | None = None, seed: int = 0) -> Placement:
    placement = Placement(clock or Clock(), seed=seed)
    placement.set_live(replicas)
    return placement


def _route(*used: str) -> Route:
    return Route(Counter(used))


def _names(count: int) -> list[str]:
    return [f"replica-{number}" for number in range(count)]


@given(
    loads=st.lists(st.integers(0, 10**7), min_size=1, max_size=12),
    shards=st.integers(1, 12),
    tokens=st.integers(1, 65_536),
)
def test_shards_of_a_list_go_to_different_replicas(loads: list[int], shards: int, tokens: int) -> None:
    """Two on one replica take twice as long as two side by side: at most one more than on any other, always."""
    names = _names(len(loads))
    placement = _placement(*names)
    for name, load in zip(names, loads, strict=True):
        placement.note_load(name, ReplicaLoad(load, 1_000.0, {"another": load}))
    used: Counter[str] = Counter()
    with ExitStack() as stack:
        for _ in range(shards):
            stack.enter_context(placement.send(Route(used), tokens))
            placement.check_integrity()
        assert sum(used.values()) == shards
        assert max(used.values()) - min(used[name] for name in names) <= 1
        if shards < len(loads):  # and these are the least loaded
            busiest = max(loads[names.index(name)] for name in used)
            assert all(load >= busiest for name, load in zip(names, loads, strict=True) if name not in used)
    placement.check_integrity()
    assert placement.shards_in_flight == 0


def test_replica_that_the_shard_was_sent_to_is_taken_again_only_if_there_is_no_other() -> None:
    placement = _placement("a", "b")
    placement.note_load("b", ReplicaLoad(10**6, 1.0, {"another": 10**6}))
    route = _route()
    for expected in ("a", "b"):
        with placement.send(route, 10) as name:
            assert name == expected
    assert route.tried == {"a", "b"}
    placement.set_live(["b"])
    with placement.send(route, 10) as name:
        assert name == "b"


def test_replica_that_keeps_silent_is_taken_last_for_a_while_or_until_it_answers() -> None:
    clock = Clock()
    placement = _placement("a", "b", clock=clock)
    placement.note_load("b", ReplicaLoad(500, 1_000.0, {"another": 500}))
    assert (placement.expected_s("a"), placement.expected_s("b")) == (0.0, 0.5)

    def taken() -> str:
        with placement.send(_route(), 10) as name:
            return name

    assert taken() == "a"
    placement.suspect("a")
    assert taken() == "b"
    placement.note_load("a", ReplicaLoad())  # Serve's controller may repeat what it said before
    assert taken() == "b"
    placement.note_answer("a", ReplicaLoad())
    assert taken() == "a"
    placement.suspect("a")
    clock.now_s += 60
    placement.note_load("b", ReplicaLoad(500, 1_000.0, {"another": 500}))
    with placement.send(_route(), 10) as name:
        assert name == "a"  # tried with one shard
        assert taken() == "b"
    assert taken() == "a"
    placement.note_answer("a", ReplicaLoad())
    with placement.send(_route(), 10) as name:
        assert (name, taken()) == ("a", "a")


def test_list_is_not_cut_for_a_replica_that_keeps_silent() -> None:
    """Each of its shards would have to be sent a second time, and how many may be is limited."""
    clock = Clock()
    placement = _placement("a", "b", "c", clock=clock)
    placement.suspect("b")
    assert placement.shortlist(3).replicas == ("a", "c")
    placement.note_answer("b", ReplicaLoad())
    assert placement.shortlist(3).replicas == ("a", "b", "c")
    for name in "abc":
        placement.suspect(name)
    assert placement.shortlist(3).replicas == ("a", "b", "c")
    placement.note_answer("a", ReplicaLoad())
    assert placement.shortlist(3).replicas == ("a",)
    clock.now_s += 60
    assert placement.shortlist(3).replicas == ("a", "b", "c")


LOAD = ReplicaLoad(0, 10_000.0)


def _taken(placement: Placement, tokens: int = 10) -> str:
    with placement.send(_route(), tokens) as name:
        return name


def test_replica_with_a_long_way_is_taken_when_the_others_would_take_as_long() -> None:
    clock = Clock()
    placement = _placement("near", "far", clock=clock)
    for _ in range(10):
        placement.note_answer("near", LOAD, 0.01)
        placement.note_answer("far", LOAD, 0.41)
    clock.now_s += 1
    assert {_taken(placement) for _ in range(50)} == {"near"}
    placement.note_load("near", ReplicaLoad(3_000, 10_000.0, {"another": 3_000}))
    assert _taken(placement) == "near"
    assert placement.shortlist(2) == Shortlist(("far", "near"), [3_904, 3_000])  # large lists leave it out, if better
    placement.note_load("near", ReplicaLoad(6_000, 10_000.0, {"another": 6_000}))
    assert (_taken(placement, 5_000), _taken(placement)) == ("far", "near")  # where a small one has its turn
    placement.note_load("near", ReplicaLoad(20_000, 10_000.0, {"another": 20_000}))
    assert _taken(placement) == "far"


def test_replica_whose_way_is_long_now_and_then_is_one_with_a_long_way() -> None:
    """Of packets that are lost, a tenth of the shards hear."""
    clock = Clock()
    placement = _placement("near", "lossy", clock=clock)
    for number in range(40):
        placement.note_answer("near", LOAD, 0.01)
        placement.note_answer("lossy", LOAD, 0.25 if number % 10 == 0 else 0.01)
        clock.now_s += 0.25
        assert {_taken(placement) for _ in range(10)} == {"near"}


def test_ways_that_hardly_differ_are_equal() -> None:
    clock = Clock()
    placement = _placement("a", "b", clock=clock)
    for _ in range(10):
        placement.note_answer("a", LOAD, 0.004)
        placement.note_answer("b", LOAD, 0.015)
    clock.now_s += 1
    assert {_taken(placement) for _ in range(50)} == {"a", "b"}


def test_long_way_is_forgotten_where_nothing_went_since() -> None:
    clock = Clock()
    placement = _placement("a", "b", clock=clock)
    placement.note_answer("b", LOAD, 0.8)
    clock.now_s += 1
    assert {_taken(placement) for _ in range(50)} == {"a"}
    clock.now_s += 300
    assert {_taken(placement) for _ in range(50)} == {"a", "b"}


def test_our_own_shards_are_counted_until_they_are_answered() -> None:
    placement = _placement("a", "b")
    with placement.send(_route(), 100) as taken:
        assert sorted(placement.shortlist(1).loads) == [0, 100]
        with placement.send(_route(), 50) as other:
            assert other != taken
            assert (sorted(placement.shortlist(1).loads), placement.shards_in_flight) == ([50, 100], 2)
    assert (list(placement.shortlist(1).loads), placement.shards_in_flight) == ([0, 0], 0)


def test_others_work_is_what_a_replica_says_it_has_less_what_is_ours() -> None:
    placement = _placement("a")
    with placement.send(_route(), 100):
        placement.note_load("a", ReplicaLoad(700, None, {placement.sender: 100, "another": 600}))
        assert list(placement.shortlist(1).loads) == [700]
        assert placement.elsewhere() == ReplicaLoad(600, None)
        placement.note_load("a", ReplicaLoad(30, None, {placement.sender: 30}))  # it has done most of ours
        assert (list(placement.shortlist(1).loads), placement.elsewhere().pending_tokens) == ([100], 0)
    assert list(placement.shortlist(1).loads) == [0]


def test_replica_that_says_who_sent_what_may_be_heard_late() -> None:
    """Its word may be older than our last answer: what it still counts as ours is not taken for that of others."""
    placement = _placement("a")
    said = ReplicaLoad(900, None, {placement.sender: 300, "other": 500, "third": 100})
    placement.note_load("a", said)
    assert (list(placement.shortlist(1).loads), placement.elsewhere().pending_tokens) == ([600], 600)


def test_each_sender_has_a_name_of_its_own() -> None:
    assert len({_placement().sender for _ in range(10)}) == 10


def test_others_work_drains_at_the_replicas_speed() -> None:
    """An idle ingress hears of a replica once in a while; it must not shun it for what is done long since."""
    clock = Clock()
    placement = _placement("a", clock=clock)
    placement.note_load("a", ReplicaLoad(1_000, 100.0, {"another": 1_000}))
    seen = []
    for _ in range(4):
        seen.append(placement.shortlist(1).loads[0])
        clock.now_s += 4
    assert seen == [1_000, 600, 200, 0]


def test_speed_of_all_is_guessed_from_those_that_have_worked() -> None:
    placement = _placement("a", "b", "c", "d")
    assert placement.elsewhere() == ReplicaLoad(0, None)
    placement.note_load("a", ReplicaLoad(0, 100.0))
    placement.note_load("b", ReplicaLoad(0, 300.0))
    assert placement.elsewhere() == ReplicaLoad(0, 800.0)


def test_dead_replica_is_forgotten_once_its_shards_are_back() -> None:
    placement = _placement("a", "b")
    with placement.send(_route(), 100) as name:
        placement.set_live(["b" if name == "a" else "a"])
        assert list(placement.shortlist(1).loads) == [0]
        placement.check_integrity()
    placement.set_live(["b"])
    assert set(placement._replicas) == {"b"}
    placement.note_load("a", ReplicaLoad(500, 1.0, {"another": 500}))  # a last word that comes too late
    assert placement.elsewhere() == ReplicaLoad(0, None)
    placement.set_live(["c"])
    assert set(placement._replicas) == {"c"}
    placement.check_integrity()


def test_shard_without_a_live_replica_is_a_mistake_of_the_caller() -> None:
    """Who sends waits until there is one."""
    with pytest.raises(LookupError), Placement(Clock(), seed=0).send(_route(), 5):
        raise AssertionError("unreachable")


def test_wrong_count_is_noticed() -> None:
    placement = _placement("a")
    placement._replicas["a"].ours = 7
    with pytest.raises(RuntimeError, match="7 tokens counted at a replica, 0 sent"):
        placement.check_integrity()


class AnyUse(RuleBasedStateMachine):
    """Shards are sent, sent again and answered, while replicas come, talk and die: our tokens are always right."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.placement = Placement(self.clock, seed=0)
        self.names = _names(5)
        self.out: list[tuple[ExitStack, Route, str]] = []

    @rule(live=st.sets(st.integers(0, 4)))
    def live(self, live: set[int]) -> None:
        self.placement.set_live(self.names[number] for number in live)

    @rule(number=st.integers(0, 4), tokens=st.integers(0, 1_000), speed=st.one_of(st.none(), st.floats(1, 1_000)))
    def hear(self, number: int, tokens: int, speed: float | None) -> None:
        self.placement.note_load(self.names[number], ReplicaLoad(tokens, speed, {"another": tokens}))
        self.clock.now_s += 0.1

    @precondition(lambda self: self.placement.live_replicas)
    @rule(tokens=st.integers(0, 1_000), again=st.integers(0, 99))
    def send(self, tokens: int, again: int) -> None:
        stack, route = ExitStack(), self.out[again][1] if again < len(self.out) else _route()
        name = stack.enter_context(self.placement.send(route, tokens))
        assert name in self.placement._live
        self.out.append((stack, route, name))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        self.out.pop(which % len(self.out))[0].close()
        assert set(self.placement._replicas) - self.placement._live <= {name for _, _, name in self.out}

    @invariant()
    def counts_are_right(self) -> None:
        self.placement.check_integrity()
        assert self.placement.shards_in_flight == len(self.out)
        assert all(load >= 0 for load in self.placement.shortlist(1).loads)


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=30, stateful_step_count=30)
