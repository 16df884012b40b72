"""Too few replicas cost latency, too many cost GPUs; one decision a second goes on for ever."""

from __future__ import annotations

import itertools
import logging
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingPolicy

from deployments.autoscaling import REASONS, Decision, QueueTime, ReplicaScaling, Report
from reranker.config import ScalingConfig

SPEED = 1_000.0
CONFIG = ScalingConfig(target_queue_s=1, utilization=0.5, keep_s=60, step_down=0.25, stale_s=10)


class Fleet:
    """Replicas that say what the test wants them to, a second after the other."""

    def __init__(self, replicas: int, config: ScalingConfig = CONFIG) -> None:
        self.scaling = ReplicaScaling(config)
        self.target = replicas
        self.now_s = 1_000.0
        self.arrived: dict[str, float] = {}

    def second(
        self, pending: float = 0, arriving: float = 0, silent: int = 0, speed: float | None = SPEED, stale_s: float = 0
    ) -> Decision:
        """One second with so many tokens queued and arriving in all; the decision is followed at once."""
        self.now_s += 1
        reports: dict[str, Report | None] = {}
        for name in map(str, range(self.target)):
            self.arrived[name] = self.arrived.get(name, 0) + arriving / self.target
            reports[name] = Report(self.now_s - stale_s, pending / self.target, self.arrived[name], speed)
        for number in range(silent):
            reports[str(number)] = None
        decision = self.scaling.decide(reports, self.target, self.now_s)
        self.target = decision.replicas
        return decision


def test_policy_that_fails_leaves_things_as_they_are_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Serve's controller does not catch it, and would update no application any more, whatever is deployed."""
    policy = QueueTime()
    broken = SimpleNamespace(
        target_num_replicas=3, running_replicas=[object()], raw_metrics={}, deployment_name="Engine"
    )
    with caplog.at_level(logging.ERROR, "ray.serve"):
        answers = [policy(broken) for _ in range(3)]  # it has no unique_id, and no time
    assert answers == [(3, {})] * 3
    assert [one.getMessage() for one in caplog.records] == ["scaling has failed, and leaves Engine as it is"]


def test_backlog_adds_at_once_as_many_as_bring_it_below_the_target() -> None:
    """6 s of work for one replica, and a target of 1 s."""
    decision = Fleet(2).second(pending=6 * SPEED)
    assert (decision.replicas, decision.reason, decision.queue_s) == (6, "queue", 3)


def test_queue_adds_no_more_while_replicas_start() -> None:
    """A model loads for a minute, and the queue grows meanwhile; each second would order more. The load still may."""
    scaling = ReplicaScaling(CONFIG)
    for second, (arrived, wanted, reason) in enumerate([(0, 6, "queue"), (0, 6, "enough"), (16_000, 16, "load")]):
        report = Report(second, 6 * SPEED + 1e5 * second, arrived, SPEED)
        decision = scaling.decide({"a": report}, 1 if second == 0 else 6, second)
        assert (decision.replicas, decision.reason) == (wanted, reason)


def test_load_adds_before_a_queue_grows() -> None:
    """Replicas that are always busy have no queue yet, and any burst would make one."""
    fleet = Fleet(2)
    decisions = [fleet.second(arriving=2 * SPEED) for _ in range(20)]
    assert fleet.target == 4  # at a utilization of one half
    assert {decision.reason for decision in decisions} == {"load", "enough", "recent need"}


def test_replicas_go_slowly_and_not_before_the_past_allows_it() -> None:
    fleet = Fleet(1)
    fleet.second(pending=8 * SPEED)
    assert fleet.target == 8
    seen = [(fleet.second().replicas, fleet.now_s) for _ in range(98)]
    first_s = next(at_s for replicas, at_s in seen if replicas < 8)
    assert first_s > 1_001 + CONFIG.keep_s
    steps = [before - after for (before, _), (after, _) in itertools.pairwise(seen) if after != before]
    assert steps == [2, 1, 1, 1, 1, 1, 1]  # a quarter at most, and one at least
    assert seen[-1][0] == 0


def test_need_of_the_last_minutes_holds_replicas() -> None:
    """A load that comes and goes every half minute must not start and stop engines each time."""
    fleet = Fleet(4)
    targets = {fleet.second(pending=4 * SPEED if second % 30 == 0 else 0).replicas for second in range(300)}
    assert targets == {4}


@pytest.mark.parametrize(("silent", "stale_s"), [(3, 0.0), (4, 0.0), (0, 11.0)])
def test_without_figures_nothing_changes(silent: int, stale_s: float) -> None:
    decision = Fleet(4).second(pending=100 * SPEED, silent=silent, stale_s=stale_s)
    assert (decision.replicas, decision.reason) == (4, "no figures")


def test_replicas_that_say_nothing_any_more_are_taken_to_be_like_the_others() -> None:
    fleet = Fleet(4)
    assert fleet.second(pending=4 * SPEED).replicas == 4
    assert fleet.second(pending=8 * SPEED, silent=2).replicas == 8


def test_replicas_that_have_just_come_add_nothing_to_the_work() -> None:
    """Or each that starts would call for more."""
    scaling = ReplicaScaling(CONFIG)
    assert scaling.decide({"a": Report(0, 3 * SPEED, 0, SPEED)}, 1, 0).replicas == 3
    new: dict[str, Report | None] = {"a": Report(1, 3 * SPEED, 0, SPEED), "b": None}
    assert scaling.decide(new, 3, 1).needed == 3


def test_before_anything_was_measured_nothing_changes() -> None:
    """How long a queue takes is not known before the first step of an engine."""
    fleet = Fleet(1)
    decision = fleet.second(pending=100 * SPEED, speed=None)
    assert (decision.replicas, decision.reason) == (1, "no speed yet")
    assert fleet.second(speed=None).reason == "recent need"


def test_no_replica_no_decision() -> None:
    """Serve itself starts the first one when a request comes."""
    decision = ReplicaScaling(CONFIG).decide({}, 0, 1.0)
    assert (decision.replicas, decision.reason) == (0, "no figures")


def test_replica_that_starts_anew_is_no_load() -> None:
    """Its count of arrived tokens falls back to nothing."""
    scaling = ReplicaScaling(CONFIG)
    for second, arrived in enumerate([9e9, 9e9, 0.0, 0.0]):
        decision = scaling.decide({"a": Report(second, 0, arrived, SPEED)}, 1, second)
        assert decision.needed == 0


def test_what_arrived_before_the_policy_began_is_no_load() -> None:
    """A deployment gives the policy a new start, and the replicas keep their counts."""
    scaling = ReplicaScaling(CONFIG)
    assert scaling.decide({"a": Report(0, 0, 1e12, SPEED)}, 1, 0).needed == 0
    assert scaling.decide({"a": Report(1, 0, 1e12 + 500, SPEED)}, 1, 1).needed == pytest.approx(1)
    assert scaling.decide({"a": Report(1, 0, 1e12 + 500, SPEED), "b": Report(2, 0, 1e12, None)}, 2, 2).needed == 1


@pytest.mark.parametrize("every_s", [0.5, 1.0, 10.0])
def test_load_is_what_it_is_however_often_replicas_report(every_s: float) -> None:
    """Decisions come ten times a second, and find the same report again and again."""
    scaling = ReplicaScaling(CONFIG)
    needed = [
        scaling.decide({"a": Report(said_s, 0, 3 * SPEED * said_s, SPEED)}, 1, tick / 10).needed
        for tick in range(400)
        for said_s in [tick / 10 // every_s * every_s]
    ]
    assert needed[-300:] == [pytest.approx(6)] * 300  # at a utilization of one half


def test_burst_is_seen_whole_within_two_seconds() -> None:
    fleet = Fleet(8)
    for _ in range(30):
        fleet.second(arriving=SPEED)
    assert [fleet.second(arriving=5 * SPEED).needed for _ in range(2)] == [pytest.approx(6), pytest.approx(10)]


@given(
    seconds=st.lists(
        st.tuples(
            st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 12), st.none() | st.floats(1, 1e5), st.floats(0, 30)
        ),
        min_size=1,
        max_size=80,
    ),
    start=st.integers(1, 12),
)
def test_whatever_replicas_say_a_decision_is_sound(
    seconds: list[tuple[float, float, int, float | None, float]], start: int
) -> None:
    """It is a number with a reason; up to what is needed at once, and down by a step at most, never below the need."""
    fleet = Fleet(start)
    needs: list[tuple[float, float]] = []
    for pending, arriving, silent, speed, stale_s in seconds:
        before = fleet.target
        if before == 0:
            break
        decision = fleet.second(pending, arriving, min(silent, before), speed, stale_s)
        assert decision.reason in REASONS
        assert math.isfinite(decision.needed)
        assert math.isfinite(decision.queue_s)
        if decision.reason not in ("no figures", "no speed yet"):
            needs.append((fleet.now_s, decision.needed))
        recent = [need for at_s, need in needs if at_s >= fleet.now_s - CONFIG.keep_s]
        if decision.replicas > before:
            assert decision.replicas == math.ceil(decision.needed - 0.01)
        elif decision.replicas < before:
            assert before - decision.replicas <= max(1, before * CONFIG.step_down)
            assert decision.replicas >= math.ceil(max(recent) - 0.01)
        fleet.target = min(fleet.target, 12)


@given(pending=st.floats(0, 1e5), more=st.floats(0, 1e5), replicas=st.integers(1, 20))
def test_more_work_never_means_fewer_replicas(pending: float, more: float, replicas: int) -> None:
    fewer, larger = Fleet(replicas).second(pending), Fleet(replicas).second(pending + more)
    assert larger.replicas >= fewer.replicas


_CONTROLLER = """
import pickle, sys
sys.modules["deployments"] = None
from collections import namedtuple
from types import SimpleNamespace
policy = pickle.loads(sys.stdin.buffer.read())(target_queue_s=1)
replica, Point = namedtuple("Replica", "unique_id")("one"), namedtuple("Point", "timestamp value")
said = {"pending_work": 5_000, "arrived_work": 9_000, "work_per_s": 1_000}
context = SimpleNamespace(
    running_replicas=[replica],
    raw_metrics={name: {replica: [Point(99.5, value)]} for name, value in said.items()},
    target_num_replicas=1,
    current_time=100.0,
    deployment_name="EngineReplica",
)
print(policy(context)[0])
"""


def test_policy_works_as_serve_sends_it_to_its_controller() -> None:
    """Serve pickles the policy's module by value: all that it needs must be in this module, or importable there."""
    policy = AutoscalingPolicy(policy_function="deployments.autoscaling:QueueTime")
    policy.serialize_policy()
    controller = subprocess.run(
        [sys.executable, "-c", _CONTROLLER], input=policy.get_serialized_policy_def(), capture_output=True, check=False
    )
    assert controller.stdout.strip() == b"5", controller.stderr.decode()
