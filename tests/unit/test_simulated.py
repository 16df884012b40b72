"""The imagined device costs what it says, and gives each pair the same score in every process and batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import EngineConfig, SimulatedConfig
from reranker.engine import simulated
from reranker.engine.job import Common
from reranker.engine.simulated import SimulatedStepper, simulated_engine, simulated_logit
from reranker.errors import EngineFailedError
from tests.unit.steppers import QUICK, expected, shard

COSTS = SimulatedConfig(tokens_per_s=1_000, step_s=0.5, jitter=0)
HEAD = [1, 2, 3]


class FakeTime:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """What the device takes for time."""
    fake = FakeTime()
    monkeypatch.setattr(simulated, "time", fake)
    return fake


def _stepper(costs: SimulatedConfig = COSTS, *, tokens: int = 1_000, pairs: int = 100) -> SimulatedStepper:
    return SimulatedStepper(costs, tokens, pairs)


@given(prompt=st.lists(st.integers(0, 200_000), max_size=50))
def test_logit_is_a_pure_function_of_the_tokens_between_minus_8_and_8(prompt: list[int]) -> None:
    logit = simulated_logit(prompt)
    assert -8 <= logit <= 8
    assert logit == simulated_logit(np.array(prompt, dtype=np.int64).tolist()) == float(np.float32(logit))


def test_logit_is_the_same_in_every_process() -> None:
    """Replicas must agree; Python's own hash would be salted. The number is written down."""
    assert simulated_logit([1, 2, 3]) == pytest.approx(-4.078251838684082)


def test_step_costs_its_tokens_and_a_constant(fake_time: FakeTime) -> None:
    stepper = _stepper()
    stepper.add(0, [*HEAD, 4, 5], Common(HEAD), 0)
    assert stepper.step() == [(0, simulated_logit([*HEAD, 4, 5]))]
    assert fake_time.slept == pytest.approx([0.5 + 5 / 1_000])


def test_step_takes_as_long_as_its_thread_where_the_device_is_faster(fake_time: FakeTime) -> None:
    """The loop prepares a batch while the device computes the one before: the longer of the two counts."""
    for host_s, took_s in ((0.1, 0.505), (0.3, 0.6)):
        stepper = _stepper(COSTS.model_copy(update={"host_s_per_pair": host_s}))
        for pair, tokens in enumerate(([1, 2], [3, 4, 5])):
            stepper.add(pair, tokens, Common([]), 0)
        assert len(stepper.step()) == 2
        assert fake_time.slept.pop() == pytest.approx(took_s)


def test_head_is_computed_once_as_a_prefix_cache_has_it(fake_time: FakeTime) -> None:
    stepper = _stepper()
    for pair in range(3):
        stepper.add(pair, [*HEAD, 10 + pair], Common(HEAD), 0)
    stepper.step()
    stepper.add(3, [*HEAD, 99], Common(HEAD), 0)
    stepper.step()
    stepper.add(4, [7, 7, 7, 99], Common([7, 7, 7]), 0)  # another list's
    stepper.step()
    assert fake_time.slept == pytest.approx([0.5 + 6 / 1_000, 0.5 + 1 / 1_000, 0.5 + 4 / 1_000])


def test_prefix_cache_forgets_the_head_not_used_longest(fake_time: FakeTime) -> None:
    stepper = _stepper()
    for pair in range(simulated._HEADS + 1):
        stepper.add(pair, [pair, 5, 6, 7], Common([pair, 5, 6]), 0)
    stepper.step()
    stepper.add(100, [1, 5, 6, 8], Common([1, 5, 6]), 0)
    stepper.add(101, [0, 5, 6, 8], Common([0, 5, 6]), 1)
    stepper.step()
    assert fake_time.slept[1] == pytest.approx(0.5 + (1 + 4) / 1_000)


@pytest.mark.parametrize(("tokens", "pairs", "batches"), [(1_000, 2, [2, 2, 1]), (7, 100, [2, 2, 1]), (1, 9, [1] * 5)])
def test_batch_has_no_more_than_its_limits_but_always_a_pair(
    fake_time: FakeTime, tokens: int, pairs: int, batches: list[int]
) -> None:
    stepper = _stepper(tokens=tokens, pairs=pairs)
    for pair in range(5):
        stepper.add(pair, [9, pair, 1], Common([]), 0)
    assert [len(stepper.step()) for _ in batches] == batches
    assert stepper.step() == []


def test_lower_priority_number_goes_first_and_aborted_pairs_never(fake_time: FakeTime) -> None:
    stepper = _stepper(pairs=1)
    for pair, priority in enumerate([30, 10, 20, 10]):
        stepper.add(pair, [pair], Common([]), priority)
    stepper.abort([3])
    assert [stepper.step()[0][0] for _ in range(3)] == [1, 2, 0]
    assert stepper.step() == []


def test_device_is_not_slower_because_its_thread_woke_up_late(fake_time: FakeTime) -> None:
    """On a machine with many replicas threads wait for a core; a real GPU would not."""
    stepper = _stepper(pairs=1)
    for pair in range(2):
        stepper.add(pair, [1, 2, 3, 4, 5], Common([]), 0)
    stepper.step()
    fake_time.now_s += 0.004
    stepper.step()
    assert fake_time.slept == pytest.approx([0.505, 0.501])


def test_device_that_stood_idle_does_not_catch_up(fake_time: FakeTime) -> None:
    stepper = _stepper()
    fake_time.now_s += 60
    stepper.add(0, [1, 2, 3, 4, 5], Common([]), 0)
    stepper.step()
    assert fake_time.slept == pytest.approx([0.505])


def test_jitter_and_failures_are_those_of_the_seed(fake_time: FakeTime) -> None:
    def course(seed: int) -> list[float | str]:
        costs = SimulatedConfig(tokens_per_s=1_000, step_s=0.5, jitter=0.3, failure_rate=0.2, seed=seed)
        seen: list[float | str] = []
        stepper = _stepper(costs)
        for _ in range(20):
            fake_time.slept.clear()
            try:
                stepper.step()
            except RuntimeError:
                seen.append("failed")
            else:
                seen.append(round(fake_time.slept[0], 6))
        return seen

    assert course(1) == course(1) != course(2)
    assert "failed" in course(1)
    assert len(set(course(1))) > 10


async def test_engine_of_the_configuration_scores() -> None:
    config = EngineConfig(max_batch_pairs=3, simulated=QUICK)
    engine = simulated_engine(config, QUICK)
    try:
        assert (await engine.score(shard(5, 10))).tolist() == expected(shard(5, 10))
        await engine.check_integrity()
        assert engine.load.pending_tokens == 0
    finally:
        engine.shutdown()


async def test_failure_that_was_asked_for_is_that_of_a_device() -> None:
    costs = QUICK.model_copy(update={"failure_rate": 1.0})
    engine = simulated_engine(EngineConfig(scheduling="fcfs"), costs)
    with pytest.raises(EngineFailedError):
        await engine.score(shard(5, 10))
    assert not engine.healthy
    engine.shutdown()
