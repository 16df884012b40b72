"""Replicas die, requests do not: a shard of a dead one goes to another, and after a dead ingress a new one answers."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.integration.conftest import Cluster, Service, configuration, deployment
from tests.integration.traffic import RankedList, Traffic, wait_until

pytestmark = pytest.mark.slow

REPLICAS = 4
SLOW = {"tokens_per_s": 10_000}


@pytest.fixture(scope="module")
def fleet(cluster: Cluster) -> Service:
    """Four simulated replicas that may be killed; each test leaves as many."""
    return cluster.serve("fleet", lambda _: configuration(REPLICAS, simulated=SLOW))


def _names(service: Service) -> set[str]:
    return {replica["name"] for replica in service.load()["replicas"]}


def test_killed_replicas_cost_no_request_and_no_score(fleet: Service) -> None:
    """SIGKILL in the middle of the work, three times, the last time to two replicas at once."""
    lists = [RankedList.simulated(number, 300) for number in range(8)]
    before, doomed = _names(fleet), sorted(fleet.replica_processes(), key=lambda process: process.pid)
    with Traffic(fleet, lists) as traffic:
        for victims in (1, 1, 2):
            traffic.wait_for(8)
            assert len(fleet.replica_processes()) == REPLICAS
            killed = [doomed.pop() for _ in range(victims)]
            for process in killed:
                process.kill()
            assert len(fleet.load()["replicas"]) <= REPLICAS  # it answers, whoever has just died
            psutil.wait_procs(killed, timeout=30)
            wait_until(lambda: len(fleet.replica_processes()) == REPLICAS)
            fleet.wait_until_ready(REPLICAS)
    assert traffic.problems == []
    assert sum(answer["meta"]["retries"] for answer in traffic.answers) >= 1
    fleet.wait_until_idle()
    assert len(_names(fleet) - before) == REPLICAS


def test_engines_that_fail_are_replaced_and_cost_no_request(fleet: Service) -> None:
    """One step in twenty fails, and its replica ends by itself: not one that answers fast, with errors."""
    config = configuration(REPLICAS, simulated={"failure_rate": 0.05})
    for name in ("Ingress", "EngineReplica"):
        deployment(config, name)["rolling_update_percentage"] = 1  # all at once: nobody uses it now
    fleet.deploy(config)
    fleet.wait_until_ready(REPLICAS)
    lists = [RankedList.simulated(number, 50) for number in range(4)]
    known = fleet.replica_processes()
    assert len(known) == REPLICAS
    with ThreadPoolExecutor(len(lists)) as pool:
        while len(known) < REPLICAS + 3:
            answers = list(pool.map(lambda one: fleet.post(one.query, one.documents), lists))
            problems = [one.problem(answer) for one, answer in zip(lists, answers, strict=True)]
            assert problems == [None] * len(lists)
            if any(answer.json()["meta"]["retries"] for answer in answers):
                wait_until(lambda: len(fleet.replica_processes()) == REPLICAS)
                fleet.wait_until_ready(REPLICAS)
                known |= fleet.replica_processes()
    fleet.wait_until_idle()


def test_only_ingress_killed_comes_back_knowing_the_engines(fleet: Service) -> None:
    """Whoever finds nobody listening tries again, and the first answer is a ranking: no 503 before it."""
    one = RankedList.simulated(0, 50)
    [process] = fleet.replica_processes("Ingress")
    process.kill()
    process.wait(30)

    def answer() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return fleet.post(one.query, one.documents)
        return None

    deadline = time.monotonic() + 120
    while (response := answer()) is None:
        assert time.monotonic() < deadline
    assert one.problem(response) is None
