"""A speed that lies makes every promise of time a lie; a budget that leaks lets one failure become many."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.engine.pace import BatchSize, Pace
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


def _steps(
    size: BatchSize, fixed_s: float, token_s: float, pair: int, steps: int = 150, noise: random.Random | None = None
) -> list[int]:
    """The steps of a device that computes equal pairs and is never without work, once it is known."""
    taken = []
    for number in range(steps):
        tokens = max(1, size.next // pair) * pair
        took_s = fixed_s + token_s * tokens
        if noise is not None:
            took_s *= noise.lognormvariate(0, 0.05) * (10 if noise.random() < 0.05 else 1)
        size.record(tokens, took_s)
        if number >= 50:
            taken.append(tokens)
    return taken


@settings(deadline=None, max_examples=40)
@given(
    fixed_s=st.floats(0, 0.1),
    token_s=st.floats(1e-6, 1e-3),
    pair=st.integers(20, 600),
    target_s=st.floats(1e-4, 1),
    noise=st.none() | st.builds(random.Random, st.integers(0, 9)),
)
def test_no_target_takes_more_than_a_twentieth_of_the_largest_batchs_throughput(
    fixed_s: float, token_s: float, pair: int, target_s: float, noise: random.Random | None
) -> None:
    """55 ms and 230 µs a token (8B on an L4) with a target of 50 ms: one pair a step, and half the throughput.

    Where one batch is under way, on a CPU, a little less is kept.
    """
    most = 8_192
    taken = _steps(BatchSize(2 * target_s, most, depth=2), fixed_s, token_s, pair, noise=noise)
    whole = most // pair * pair
    best = whole / (fixed_s + token_s * whole)
    assert max(taken) <= most
    assert sum(taken) / (fixed_s * len(taken) + token_s * sum(taken)) >= (0.95 if noise is None else 0.9) * best
    alone = _steps(BatchSize(target_s, most), fixed_s, token_s, pair, noise=noise)
    assert sum(alone) / (fixed_s * len(alone) + token_s * sum(alone)) >= (0.9 if noise is None else 0.8) * best


@settings(deadline=None, max_examples=40)
@given(token_s=st.floats(1e-6, 1e-4), share=st.floats(0, 0.02), target_s=st.floats(0.02, 0.5))
def test_step_takes_its_target_where_the_fixed_cost_is_small(token_s: float, share: float, target_s: float) -> None:
    taken = _steps(BatchSize(target_s, 1_000_000), share * target_s, token_s, 1)
    assert np.median(taken) * token_s == pytest.approx(min(target_s, token_s * 1_000_000), rel=0.1)


def test_batch_follows_a_device_that_became_slower() -> None:
    size = BatchSize(0.05, 100_000)
    assert np.median(_steps(size, 0.001, 1e-6, 10)) == pytest.approx(49_000, rel=0.05)
    assert np.median(_steps(size, 0.001, 1e-5, 10)[70:]) == pytest.approx(4_900, rel=0.05)


def test_parts_of_a_long_pair_take_the_target_though_the_later_ones_attend_to_more() -> None:
    """A part costs by its tokens times all those before it; two targets, as each has to attend to them."""
    size, before, took_s = BatchSize(0.05, 8_192), 0, [0.0]
    while before < 32_000:
        took_s.append(0.001 + size.in_parts * (1e-5 + before * 1e-8))
        before += size.in_parts
        size.record_in_parts(size.in_parts, took_s[-1])
    assert max(took_s) < 0.25
    assert took_s[-5:] == pytest.approx([0.1] * 5, rel=0.3)
    for _ in range(20):
        size.record_in_parts(size.in_parts, 10.0)
    assert size.in_parts == 256  # and no smaller: steps cost
    whole = BatchSize(None, 8_192)
    whole.record_in_parts(8_192, 10.0)
    assert whole.in_parts == 8_192


def test_without_a_target_all_batches_are_full_and_small_lists_teach_no_size() -> None:
    size = BatchSize(None, 8_192)
    size.record(100, 1.0)
    assert (size.next, size.tokens) == (8_192, 8_192)
    size = BatchSize(0.05, 8_192)
    for _ in range(200):
        size.record(100, 0.001)
        assert size.next == size.tokens  # no trial batches cut a list in two that is small anyway
    size.record(0, 1.0)
    assert size.tokens == 5_000


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
