"""The imagined fleet must lose no list, and must show what it was made for; otherwise its figures mean nothing."""

from __future__ import annotations

import pytest

from benchmarks.fleet.simulation import SPEED, STEP_S, STEP_TOKENS, Fleet, Strategy
from deployments.autoscaling import ReplicaScaling
from reranker.config import ScalingConfig


@pytest.mark.parametrize("placement", ["ours", "two choices", "round robin", "random"])
def test_every_list_is_ranked_though_replicas_die(placement: str) -> None:
    fleet = Fleet(4, Strategy(placement))
    for number in range(50):
        fleet.at(number * 0.1, lambda: fleet.send([200] * 100))
    for moment_s in (1.0, 2.0, 3.0):
        fleet.at(moment_s, fleet.kill_one)
        fleet.at(moment_s, lambda: fleet.start(load_s=1.0))
    fleet.run(60)
    assert len(fleet.done) == 50
    assert len(fleet.live) == 4
    assert all(replica.pending == 0 and not replica.shards for replica in fleet.live.values())


def test_one_list_alone_takes_what_its_work_takes() -> None:
    """100 documents of 200 tokens on one replica: 10 steps."""
    fleet = Fleet(1, Strategy(split=False))
    fleet.at(1.0, lambda: fleet.send([200] * 100))
    fleet.run(10)
    [ranked] = fleet.done
    assert ranked.done_s is not None
    assert ranked.done_s - ranked.arrived_s == pytest.approx(10 * (STEP_S + STEP_TOKENS / SPEED), abs=0.02)


def test_split_list_ends_earlier_on_more_replicas() -> None:
    took_s = []
    for replicas in (1, 8):
        fleet = Fleet(replicas, Strategy())
        fleet.at(1.0, lambda fleet=fleet: fleet.send([200] * 1_000))  # type: ignore[misc]
        fleet.run(60)
        took_s.append((fleet.done[0].done_s or 0) - 1.0)
    assert took_s[0] / took_s[1] > 6


def test_scaling_adds_and_removes_replicas() -> None:
    fleet = Fleet(1, Strategy())
    fleet.autoscale(ReplicaScaling(ScalingConfig(keep_s=20)), (1, 8), load_s=5)
    for number in range(200):
        fleet.at(1 + number * 0.1, lambda: fleet.send([200] * 60))
    fleet.run(20)
    assert len(fleet.live) + fleet.loading > 2
    fleet.run(200)
    assert len(fleet.live) == 1
    assert len(fleet.done) == 200
