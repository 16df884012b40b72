"""A speed that lies makes every promise of time a lie; a budget that leaks lets one failure become many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.engine.loop import Pace
from reranker.ranking.scatter import Budget


def test_pace_is_not_known_before_there_was_work() -> None:
    pace = Pace()
    assert pace.tokens_per_s is None
    pace.record(0, 0.1)  # a step in which nothing was done
    assert pace.tokens_per_s is None


@given(
    speed=st.integers(1, 1_000_000),
    durations_s=st.lists(st.floats(0.001, 10), min_size=1, max_size=50),
)
def test_steady_work_has_its_own_pace_whatever_the_steps(speed: int, durations_s: list[float]) -> None:
    pace = Pace()
    for busy_s in durations_s:
        pace.record(round(speed * busy_s * 1_000), busy_s)
    assert pace.tokens_per_s == pytest.approx(speed * 1_000, rel=0.01)


@given(steps=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 2)), min_size=1, max_size=50))
def test_pace_is_between_the_slowest_and_the_fastest_step(steps: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tokens, busy_s in steps:
        pace.record(tokens, busy_s)
    speeds = [tokens / busy_s for tokens, busy_s in steps]
    assert pace.tokens_per_s is not None
    assert min(speeds) * 0.999 <= pace.tokens_per_s <= max(speeds) * 1.001


def test_pace_follows_a_change_within_seconds_of_work() -> None:
    """An engine that went from full batches to small lists must not be thought fast for minutes."""
    pace = Pace()
    for _ in range(100):
        pace.record(10_000, 1)
    for _ in range(15):
        pace.record(1_000, 1)
    assert pace.tokens_per_s == pytest.approx(1_000, rel=0.5)


def test_budget_starts_full_and_ends() -> None:
    budget = Budget(ratio=0.1, burst=3)
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]


def test_work_done_once_earns_a_part_of_work_done_twice() -> None:
    budget = Budget(ratio=0.25, burst=1)
    assert budget.spend()
    for _ in range(3):
        budget.earn()
        assert not budget.spend()
    budget.earn()
    assert budget.spend()


@given(uses=st.lists(st.sampled_from(["earn", "spend"]), max_size=300), burst=st.integers(1, 10))
def test_no_more_is_spent_than_was_saved_and_earned(uses: list[str], burst: int) -> None:
    budget = Budget(ratio=0.125, burst=burst)  # exact in binary
    earned = spent = in_a_row = 0
    for use in uses:
        if use == "earn":
            budget.earn()
            earned, in_a_row = earned + 1, 0
        elif budget.spend():
            spent, in_a_row = spent + 1, in_a_row + 1
        assert spent <= burst + earned * 0.125
        assert in_a_row <= burst
