"""A service in use can be changed: replicas that are to go finish what they have, and no request is lost."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Cluster, configuration
from tests.integration.traffic import RankedList, Traffic, wait_until

pytestmark = pytest.mark.slow

REPLICAS = 3
SLOW, FAST = {"tokens_per_s": 10_000}, {"tokens_per_s": 20_000}


def test_rolling_update_and_scale_down_lose_no_request(cluster: Cluster) -> None:
    """First every replica is replaced under load, the ingress too; then all engine replicas but one go."""
    lists = [RankedList.simulated(number, 300) for number in range(8)]
    service = cluster.serve("drain", lambda _: configuration(REPLICAS, simulated=SLOW))
    with Traffic(service, lists) as traffic:
        traffic.wait_for(4)
        old = service.replica_processes() | service.replica_processes("Ingress")
        assert len(old) == REPLICAS + 1
        service.deploy(configuration(REPLICAS, simulated=FAST))
        wait_until(lambda: not old & (service.replica_processes() | service.replica_processes("Ingress")))
        traffic.wait_for(4)
        assert len(service.replica_processes()) == REPLICAS
        service.deploy(configuration(1, simulated=FAST))
        wait_until(lambda: len(service.replica_processes()) == 1)
        traffic.wait_for(8)
    assert traffic.problems == []
    assert {answer["meta"]["replicas"] for answer in traffic.answers[-4:]} == {1}
    service.wait_until_idle()
