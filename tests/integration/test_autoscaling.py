"""The number of engine replicas follows the work: a policy of ours in Serve's controller, told by the replicas."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from deployments.autoscaling import QueueTime
from tests.integration.conftest import Service, configuration
from tests.integration.traffic import RankedList, Traffic, wait_until

POLICY = {
    "policy_function": "deployments.autoscaling:QueueTime",
    "policy_kwargs": {"target_queue_s": 1, "keep_s": 5},
}
AUTOSCALING = {
    "min_replicas": 1,
    "max_replicas": 3,
    "policy": POLICY,
    "metrics_interval_s": 1,
    "look_back_period_s": 5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
}
ONE = ReplicaID("one", DeploymentID("EngineReplica", "reranker"))


def _context(raw: dict[str, Any] | None, target: int = 1) -> AutoscalingContext:
    """What Serve gives a policy: one replica, and the series of what it said."""
    return SimpleNamespace(
        running_replicas=[ONE],
        raw_metrics=raw,
        target_num_replicas=target,
        current_time=100.0,
        deployment_name="EngineReplica",
        total_queued_requests=0,
    )


def _series(**latest: float) -> dict[str, Any]:
    return {name: {ONE: [TimeStampedValue(98.0, 0.0), TimeStampedValue(99.5, value)]} for name, value in latest.items()}


def test_policy_reads_the_last_that_replicas_said() -> None:
    context = _context(_series(pending_work=5_000, arrived_work=9_000, work_per_s=1_000))
    assert QueueTime(target_queue_s=1)(context) == (5, {})


@pytest.mark.parametrize("raw", [None, {}, _series(pending_work=5_000), _series(pending_work=5e3, work_per_s=0)])
def test_policy_changes_nothing_while_it_is_told_nothing(raw: dict[str, Any] | None) -> None:
    assert QueueTime()(_context(raw)) == (1, {})


def test_unknown_setting_of_the_policy_is_refused() -> None:
    with pytest.raises(ValidationError):
        QueueTime(target_queue=1)


@pytest.mark.parametrize(("queued", "wanted"), [(0.0, 0), (1.0, 1)])
def test_from_zero_a_list_that_waits_brings_a_replica(queued: float, wanted: int) -> None:
    context = SimpleNamespace(running_replicas=[], target_num_replicas=0, total_queued_requests=queued)
    assert QueueTime()(context) == (wanted, {})


def test_replicas_come_with_the_work_and_go_without_it(tmp_path: Path) -> None:
    """Real Serve, its own controller: 12 lists at a time of 1 s each for one engine; then nothing, and the last goes.

    One more list is refused, but one is started for it.
    """
    args = {"admission": {"max_queue_s": 60}}  # none is to be refused, however late the second replica is
    config = copy.deepcopy(configuration(args=args, simulated={"tokens_per_s": 10_000}))
    [engine] = [one for one in config["applications"][0]["deployments"] if one["name"] == "EngineReplica"]
    engine["autoscaling_config"] = AUTOSCALING
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    service = Service(path, tmp_path / "service.log")
    try:
        service.wait_until_ready(1)
        lists = [RankedList.simulated(number, 300) for number in range(12)]
        with Traffic(service, lists) as traffic:
            wait_until(lambda: len(service.replica_processes()) == 3)
            service.wait_until_ready(3)
            traffic.wait_for(12)
        assert traffic.problems == []
        wait_until(lambda: len(service.replica_processes()) == 1, timeout_s=120)
        engine["autoscaling_config"] = AUTOSCALING | {"min_replicas": 0}
        service.deploy(config)
        wait_until(lambda: not service.replica_processes(), timeout_s=120)
        assert service.post(lists[0].query, lists[0].documents).status_code == 503
        service.wait_until_ready(1)
        assert lists[0].problem(service.post(lists[0].query, lists[0].documents)) is None
    finally:
        service.stop()
