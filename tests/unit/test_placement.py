"""Shards of one list side by side, the least loaded replica first, and every token booked and taken off again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reranker.ranking.placement import Assignment, LoadBoard, Route
from reranker.types import ReplicaLoad


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _board(*replicas: str, clock: Clock | None = None, seed: int = 0) -> LoadBoard:
    board = LoadBoard(clock or Clock(), seed=seed)
    board.set_live(replicas)
    return board


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
    board = _board(*names)
    for name, load in zip(names, loads, strict=True):
        board.hear(name, ReplicaLoad(load, 1_000.0))
    used: Counter[str] = Counter()
    with ExitStack() as stack:
        for _ in range(shards):
            assignment = stack.enter_context(board.shard(Route(used), tokens))
            board.choose(assignment.number, names)
            board.check_integrity()
        assert sum(used.values()) == shards
        assert max(used.values()) - min(used[name] for name in names) <= 1
        if shards < len(loads):  # and these are the least loaded
            busiest = max(loads[names.index(name)] for name in used)
            assert all(load >= busiest for name, load in zip(names, loads, strict=True) if name not in used)
    board.check_integrity()
    assert board.shards_in_flight == 0


def test_replica_that_the_shard_was_sent_to_is_taken_again_only_if_there_is_no_other() -> None:
    board = _board("a", "b")
    board.hear("b", ReplicaLoad(10**6, 1.0))
    route = _route()
    for expected in ("a", "b"):
        with board.shard(route, 10) as assignment:
            assert board.choose(assignment.number, ["a", "b"]) == expected
    assert route.tried == {"a", "b"}
    with board.shard(route, 10) as assignment:
        assert board.choose(assignment.number, ["b"]) == "b"


def test_our_own_shards_are_booked_until_they_are_answered() -> None:
    board = _board("a", "b")
    with board.shard(_route(), 100) as first:
        taken = board.choose(first.number, ["a", "b"])
        assert sorted(board.survey(1).loads) == [0, 100]
        with board.shard(_route(), 50) as second:
            assert board.choose(second.number, ["a", "b"]) != taken
            assert (sorted(board.survey(1).loads), board.shards_in_flight) == ([50, 100], 2)
    assert (list(board.survey(1).loads), board.shards_in_flight) == ([0, 0], 0)


def test_second_choice_takes_the_first_one_back() -> None:
    """Ray asks again when the replica that was chosen turns out to be full."""
    board = _board("a", "b", "c")
    route = _route()
    with board.shard(route, 100) as assignment:
        chosen = [board.choose(assignment.number, ["a"]), board.choose(assignment.number, ["b"])]
        assert chosen == ["a", "b"]
        assert sorted(board.survey(1).loads) == [0, 0, 100]
        assert (+route.used, route.tried) == (Counter("b"), {"b"})
        board.check_integrity()


def test_others_work_is_what_a_replica_says_it_has_less_what_is_ours() -> None:
    board = _board("a")
    with board.shard(_route(), 100) as assignment:
        board.choose(assignment.number, ["a"])
        board.hear("a", ReplicaLoad(700, None))
        assert list(board.survey(1).loads) == [700]
        assert board.elsewhere() == ReplicaLoad(600, None)
        board.hear("a", ReplicaLoad(30, None))  # it has done most of ours: nothing is anybody else's
        assert (list(board.survey(1).loads), board.elsewhere().pending_tokens) == ([100], 0)
    assert list(board.survey(1).loads) == [0]


def test_replica_that_says_who_sent_what_may_be_heard_late() -> None:
    """Its word may be older than our last answer: what it still counts as ours is not taken for that of others."""
    board = _board("a")
    said = ReplicaLoad(900, None, {board.name: 300, "other": 500, "third": 100})
    board.hear("a", said)
    assert (list(board.survey(1).loads), board.elsewhere().pending_tokens) == ([600], 600)


def test_boards_have_names_of_their_own() -> None:
    assert len({_board().name for _ in range(10)}) == 10


def test_others_work_drains_at_the_replicas_speed() -> None:
    """An idle ingress hears of a replica once in a while; it must not shun it for what is done long since."""
    clock = Clock()
    board = _board("a", clock=clock)
    board.hear("a", ReplicaLoad(1_000, 100.0))
    seen = []
    for _ in range(4):
        seen.append(board.survey(1).loads[0])
        clock.now_s += 4
    assert seen == [1_000, 600, 200, 0]


def test_speed_of_all_is_guessed_from_those_that_have_worked() -> None:
    board = _board("a", "b", "c", "d")
    assert board.elsewhere() == ReplicaLoad(0, None)
    board.hear("a", ReplicaLoad(0, 100.0))
    board.hear("b", ReplicaLoad(0, 300.0))
    assert board.elsewhere() == ReplicaLoad(0, 800.0)


def test_dead_replica_is_forgotten_once_its_shards_are_back() -> None:
    board = _board("a", "b")
    with board.shard(_route(), 100) as assignment:
        board.choose(assignment.number, ["a"])
        board.set_live(["b"])
        assert list(board.survey(1).loads) == [0]
        board.check_integrity()
    assert set(board._replicas) == {"b"}
    board.hear("a", ReplicaLoad(500, 1.0))  # a last word that comes too late
    assert board.elsewhere() == ReplicaLoad(0, None)
    board.set_live(["c"])
    assert set(board._replicas) == {"c"}
    board.check_integrity()


def test_replica_that_is_not_known_yet_can_be_chosen() -> None:
    """Ray's set of candidates may be ahead of ours."""
    board = LoadBoard(Clock(), seed=0)
    with board.shard(_route(), 5) as assignment:
        assert board.choose(assignment.number, ["new"]) == "new"
        board.check_integrity()
    assert not board._replicas


def test_call_without_a_shard_gets_any_replica() -> None:
    """Such as the first one of a handle, which only waits for a replica to be there."""
    board = _board("a", "b")
    assert {board.choose(0, ["a", "b"]) for _ in range(50)} == {"a", "b"}
    assert list(board.survey(1).loads) == [0, 0]


def test_board_keeps_its_books_when_two_threads_use_it() -> None:
    """The application's thread and that of Ray's router."""
    names = _names(4)
    board = _board(*names)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(500):
            with board.shard(_route(), draw.randint(1, 100)) as assignment:
                board.choose(assignment.number, names)
                board.hear(draw.choice(names), ReplicaLoad(draw.randint(0, 100), 1.0))
                board.set_live(draw.sample(names, 3))
                board.check_integrity()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    board.check_integrity()
    assert board.shards_in_flight == 0


def test_broken_book_is_noticed() -> None:
    board = _board("a")
    board._replicas["a"].ours = 7
    with pytest.raises(RuntimeError, match="7 tokens counted at a replica, 0 sent"):
        board.check_integrity()


class AnyUse(RuleBasedStateMachine):
    """Shards begin, are sent, sent again and end, while replicas come, talk and die: our tokens are always right."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.board = LoadBoard(self.clock, seed=0)
        self.names = _names(5)
        self.out: list[tuple[ExitStack, Assignment]] = []

    @rule(live=st.sets(st.integers(0, 4)))
    def live(self, live: set[int]) -> None:
        self.board.set_live(self.names[number] for number in live)

    @rule(number=st.integers(0, 4), tokens=st.integers(0, 1_000), speed=st.one_of(st.none(), st.floats(1, 1_000)))
    def hear(self, number: int, tokens: int, speed: float | None) -> None:
        self.board.hear(self.names[number], ReplicaLoad(tokens, speed))
        self.clock.now_s += 0.1

    @rule(tokens=st.integers(1, 1_000))
    def begin(self, tokens: int) -> None:
        stack = ExitStack()
        self.out.append((stack, stack.enter_context(self.board.shard(_route(), tokens))))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99), candidates=st.sets(st.integers(0, 4), min_size=1))
    def choose(self, which: int, candidates: set[int]) -> None:
        assignment = self.out[which % len(self.out)][1]
        names = [self.names[number] for number in candidates]
        assert self.board.choose(assignment.number, names) in names

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        self.out.pop(which % len(self.out))[0].close()
        known = set(self.board._replicas)
        assert known - self.board._live <= {assignment.replica for _, assignment in self.out}

    @invariant()
    def books_are_right(self) -> None:
        self.board.check_integrity()
        assert self.board.shards_in_flight == len(self.out)
        assert all(load >= 0 for load in self.board.survey(1).loads)


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=30, stateful_step_count=30)


def test_model_is_known_once_a_replica_has_said_and_as_long_as_all_agree() -> None:
    board = _board("a", "b", "c")
    assert board.model is None
    board.identify("a", "one")
    assert board.model == "one"  # the others will say soon
    board.identify("b", "another")
    board.identify("unheard-of", "a third")
    assert board.model is None
    board.set_live(["b", "c"])
    assert board.model == "another"
    board.set_live(["d"])
    assert board.model is None
