"""The number of engine replicas follows the work: a policy of ours in Serve's controller, told by the replicas."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from deployments.autoscaling import QueueTime
from tests.integration.conftest import Cluster, configuration, deployment
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


def _scale(config: dict[str, Any], name: str, autoscaling: dict[str, Any]) -> dict[str, Any]:
    """Have a deployment's replicas follow the work; gives its part of the configuration."""
    scaled = deployment(config, name)
    scaled.pop("num_replicas", None)
    scaled["autoscaling_config"] = copy.deepcopy(autoscaling)  # else YAML has anchors
    return scaled


@pytest.mark.slow
def test_replicas_come_with_the_work_and_go_without_it(cluster: Cluster) -> None:
    """Real Serve, its own controller: 12 lists at a time of 1 s each for one engine; then nothing, and the last goes.

    One more list waits until one is started for it.
    """
    args = {"admission": {"max_queue_s": 60}}  # none is to be refused, however late the second replica is
    config = configuration(args=args, simulated={"tokens_per_s": 10_000})
    engine = _scale(config, "EngineReplica", AUTOSCALING)
    service = cluster.serve("replicas follow", lambda _: config)
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
    assert lists[0].problem(service.post(lists[0].query, lists[0].documents)) is None


@pytest.mark.slow
def test_ingress_replicas_come_with_their_work_and_go_without_it(cluster: Cluster) -> None:
    """An engine that is never the limit: what the lists cost is a core of the ingress's. No list is lost with one."""
    config = configuration(1, args={"cache": {"enabled": False}}, simulated={"tokens_per_s": 2_000_000})
    kwargs = {"utilization": 0.6, "keep_s": 5}
    _scale(config, "Ingress", AUTOSCALING | {"max_replicas": 2, "policy": POLICY | {"policy_kwargs": kwargs}})
    service = cluster.serve("ingresses follow", lambda _: config)
    with Traffic(service, [RankedList.simulated(number, 300) for number in range(8)]) as much:
        wait_until(lambda: len(service.replica_processes("Ingress")) == 2)
        much.wait_for(8)
    with Traffic(service, [RankedList.simulated(0, 3)], clients=1) as little:
        wait_until(lambda: len(service.replica_processes("Ingress")) == 1)
        little.wait_for(8)
    assert much.problems + little.problems == []
