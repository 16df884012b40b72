"""Two ingress replicas share one Redis. Whatever happens to it under load, no request fails and no score is wrong."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import TLS, Cluster, Service, configuration
from tests.integration.traffic import RankedList, Traffic, wait_until
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

ADMIN, TEAM, FEW = "key-of-the-operator", "key-of-the-team", "key-of-few"
LISTS = [RankedList.simulated(number, 40) for number in range(12)]


@dataclass(frozen=True)
class Shared:
    """The service, and its Redis."""

    service: Service
    redis: RedisServer

    def report(self, method: str = "GET") -> dict[str, Any]:
        """What /v1/cache says."""
        answer = httpx.request(
            method, f"{self.service.url}/v1/cache", headers=self.service.headers, timeout=60, verify=TLS
        )
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    def pairs_of(self, one: RankedList) -> int:
        """Ask for a list; gives the pairs that engines were sent."""
        # On a connection of its own: which replica answers is drawn for each connection.
        body = {"query": one.query, "documents": one.documents}
        url, headers = f"{self.service.url}/v1/rerank", self.service.headers
        response = httpx.post(url, json=body, headers=headers, timeout=60, verify=TLS)
        assert one.problem(response) is None
        return int(response.json()["meta"]["pairs"])

    def wait_until_used(self) -> None:
        """Until both replicas have their scores from Redis again."""
        wait_until(lambda: sum(map(self.pairs_of, LISTS)) == 0 and self.report()["redis"]["reachable"])


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Without memory of their own, so that Redis is asked for every list; on a slow machine it may take its time."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:

        def configure(folder: Path) -> dict[str, Any]:
            (folder / "keys.yaml").write_text(
                f"operator: {{key: {ADMIN}, admin: true}}\nteam: {TEAM}\nfew: {{key: {FEW}, tokens_per_minute: 60}}\n"
            )
            args = {
                "cache": {"enabled": True, "memory_mib": 0, "redis": {"url": redis.url, "budget_s": 0.5}},
                "access": {"keys_file": str(folder / "keys.yaml")},
            }
            return configuration(2, args, {"tokens_per_s": 100_000}, ingresses=2)

        yield Shared(cluster.serve("shared cache", configure, ADMIN), redis)


def test_replicas_share_their_hits(shared: Shared) -> None:
    """The replica is drawn for each list: that all of these come to the same one, twice, does not happen."""
    lists = [RankedList.simulated(100 + number, 20) for number in range(20)]
    wait_until(lambda: shared.report()["ingress_replicas"] == 2)
    shared.wait_until_used()
    assert [shared.pairs_of(one) for one in lists] == [20] * 20
    assert [shared.pairs_of(one) for one in lists] == [0] * 20
    assert shared.report()["redis"] == {"reachable": True, "writable": True, "errors": 0, "wrong_values": 0}


def test_replicas_share_what_a_key_has_used(shared: Shared) -> None:
    """A list takes more than a minute's tokens. Each of the others comes to a replica that is drawn for it."""
    wait_until(lambda: shared.report()["ingress_replicas"] == 2)
    one = RankedList.simulated(200, 20)
    body = {"query": one.query, "documents": one.documents}

    def post() -> httpx.Response:
        url, headers = f"{shared.service.url}/v1/rerank", {"authorization": f"Bearer {FEW}"}
        return httpx.post(url, json=body, headers=headers, timeout=60, verify=TLS)

    assert post().status_code == 200
    wait_until(lambda: post().status_code == 429)  # it is noted just after the answer
    answers = [post() for _ in range(20)]
    assert {(answer.status_code, answer.json()["error_type"]) for answer in answers} == {(429, "quota_exceeded")}
    assert min(int(answer.headers["retry-after"]) for answer in answers) > 60


def test_operator_looks_and_clears_and_others_may_not(shared: Shared) -> None:
    shared.wait_until_used()
    assert 0 < shared.report()["hit_rate"] < 1
    for method in ("GET", "DELETE"):
        headers = {"authorization": f"Bearer {TEAM}"}
        assert httpx.request(method, f"{shared.service.url}/v1/cache", headers=headers).status_code == 403
        assert httpx.request(method, f"{shared.service.url}/v1/cache").status_code == 401
    shared.report("DELETE")
    client = shared.redis.client()
    assert [name for name in client.scan_iter() if not name.startswith(b"reranker:quota:")] == []
    client.close()
    assert shared.pairs_of(LISTS[0]) == 40


def test_killed_and_started_again(shared: Shared) -> None:
    with Traffic(shared.service, LISTS) as traffic:
        traffic.wait_for(20)
        shared.redis.kill()
        traffic.wait_for(60)
        shared.redis.start()
        shared.wait_until_used()
    assert traffic.problems == []


def test_paused_and_resumed(shared: Shared) -> None:
    with Traffic(shared.service, LISTS) as traffic:
        traffic.wait_for(20)
        shared.redis.pause()
        try:
            traffic.wait_for(60)
        finally:
            shared.redis.resume()
        shared.wait_until_used()
    assert traffic.problems == []


def test_flushed_again_and_again(shared: Shared) -> None:
    client = shared.redis.client()
    with Traffic(shared.service, LISTS) as traffic:
        for _ in range(10):
            traffic.wait_for(5)
            client.flushall()
    client.close()
    assert traffic.problems == []
    shared.wait_until_used()


def test_filled_with_wrong_bytes_again_and_again(shared: Shared) -> None:
    """Of the right length, of no length, of another type; and good values under each other's keys."""
    shared.wait_until_used()
    before = shared.report()["redis"]["wrong_values"]
    stop = threading.Event()

    def spoil() -> None:
        client, draw = shared.redis.client(), random.Random(1)
        while not stop.is_set():
            names = list(client.scan_iter())
            draw.shuffle(names)
            for name, other in zip(names, [*names[1:], *names[:1]], strict=True):
                kind = draw.randrange(4)
                if kind == 0:
                    client.set(name, draw.randbytes(16))
                elif kind == 1:
                    client.set(name, b"")
                elif kind == 2:
                    # At once: the service may write a score in between.
                    client.pipeline(transaction=True).delete(name).rpush(name, "a list").execute()
                else:
                    client.copy(other, name, replace=True)
        client.close()

    spoiler = threading.Thread(target=spoil)
    with Traffic(shared.service, LISTS) as traffic:
        spoiler.start()
        traffic.wait_for(100)
        stop.set()
        spoiler.join()
    assert traffic.problems == []
    assert shared.report()["redis"]["wrong_values"] > before
    shared.wait_until_used()


def test_nothing_is_left_behind(shared: Shared) -> None:
    shared.service.wait_until_idle()
    said = [line for line in shared.service.log.read_text(errors="replace").splitlines() if "score cache:" in line]
    assert said, "the log says nothing of all that"
    # Two replicas, two outages: a line when it goes and one when it comes back, however many lists were asked for.
    assert len([line for line in said if "does not answer" in line]) <= 8, said
