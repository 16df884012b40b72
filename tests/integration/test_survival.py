"""Replicas die, requests do not: a shard of a dead one goes to another, and after a dead ingress a new one answers.

Nor do they wait for Ray's control plane, which need not answer at all while nothing starts or ends.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import TLS, Cluster, Service, configuration, deployment
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


ADMIN_KEY, KEY = "key-of-an-admin", "key-of-another"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
ASKED = (("GET", "/v1/cache"), ("GET", "/v1/load"), ("GET", "/metrics"), ("DELETE", "/v1/cache"))
STOPPED_S = 15
KILLED_S, KILL_EVERY_S, DEADLINE_S = 40, 6, 30


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> Service:
    """Two simulated replicas, and two API keys; nobody has asked anything yet."""

    def configure(folder: Path) -> dict[str, Any]:
        (folder / "keys.yaml").write_text(f"boss: {{key: {ADMIN_KEY}, admin: true}}\nteam: {KEY}\n")
        return configuration(2, {"access": {"keys_file": str(folder / "keys.yaml")}}, SLOW)

    return cluster.serve("pair", configure, KEY)


def test_control_plane_that_stands_still_keeps_no_request_waiting(pair: Service) -> None:
    """What an admin asks for the first time then, the ingress has prepared; it answers, or says when to ask again."""
    [control] = [process for process in pair.processes() if process.name() == "gcs_server"]
    one = RankedList.simulated(0, 10)
    assert one.problem(pair.post(one.query, one.documents)) is None
    until_s = time.monotonic() + STOPPED_S
    answers: list[httpx.Response] = []
    rounds = 0

    def ask(method: str, path: str) -> httpx.Response:
        return httpx.request(method, pair.url + path, headers=ADMIN, timeout=30, verify=TLS)

    def keep_asking(what: tuple[str, str]) -> None:
        while time.monotonic() < until_s:
            answers.append(ask(*what))
            time.sleep(0.2)

    with ThreadPoolExecutor(len(ASKED)) as pool, httpx.Client(base_url=pair.url, timeout=30, verify=TLS) as http:
        control.suspend()
        try:
            asking = [pool.submit(keep_asking, what) for what in ASKED]
            while time.monotonic() < until_s:
                assert http.get("/health").status_code == 200
                assert one.problem(pair.post(one.query, one.documents, cache="off")) is None
                rounds += 1
                time.sleep(0.05)
            for each in asking:
                each.result()
        finally:
            control.resume()
    assert rounds > STOPPED_S  # whatever waits for the control plane waits as long as it stands still
    assert {answer.status_code for answer in answers if "retry-after" not in answer.headers} == {200}
    assert {answer.status_code for answer in answers} <= {200, 503}
    wait_until(lambda: all(ask(*what).status_code == 200 for what in ASKED))


def test_engines_that_all_die_again_and_again_cost_time_and_no_list(pair: Service) -> None:
    """Both are killed every six seconds, while they start as well. Whoever can wait for the next engine does."""
    lists = [RankedList.simulated(number, 60) for number in range(4)]
    until_s = time.monotonic() + KILLED_S

    def send(one: RankedList) -> list[tuple[RankedList, float, httpx.Response]]:
        answers = []
        while (began_s := time.monotonic()) < until_s:
            response = pair.post(one.query, one.documents, cache="off", timeout_s=DEADLINE_S)
            answers.append((one, time.monotonic() - began_s, response))
        return answers

    with ThreadPoolExecutor(len(lists)) as pool:
        sending = [pool.submit(send, one) for one in lists]
        while time.monotonic() < until_s:
            for process in pair.replica_processes():
                process.kill()
            time.sleep(KILL_EVERY_S)
        answers = [answer for sent in sending for answer in sent.result()]
    for one, took_s, response in answers:
        if response.status_code in {503, 504}:  # where engines take longer to start than they live
            assert response.status_code == 504 or "retry-after" in response.headers
            assert took_s > KILL_EVERY_S / 2, response.text  # not at once: it has met more than one kill
        else:
            assert one.problem(response) is None
    pair.wait_until_ready(2)
    assert lists[0].problem(pair.post(lists[0].query, lists[0].documents, cache="off")) is None
    pair.wait_until_idle()
