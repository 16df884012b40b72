"""A real Prometheus scrapes running services: every query of dashboard and alerts has an answer, and alerts fire."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import httpx
import pytest
import yaml

from tests.integration.conftest import ROOT, Service, free_port
from tests.integration.monitoring.conftest import SCRAPE_KEY, Watched
from tests.integration.scraping import exporter_of, metrics_of
from tests.integration.traffic import documents, wait_until
from tests.programs import program
from tools.dashboard.panels import ROWS
from tools.dashboard.prometheus import Prometheus

pytestmark = pytest.mark.slow
WINDOW = "40s"
RULES = yaml.safe_load((ROOT / "k8s" / "base" / "alerts.yaml").read_text())["spec"]
PROVOKED = ("RerankerFailing", "RerankerRefusing", "RerankerShardsRetried", "RerankerCacheWithoutRedis")
"""Alerts for which the test does what they are about; the others fire in tests/manifests."""


@pytest.fixture(scope="module")
def prometheus(watched: Watched, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A server that looks every second; at the simulated service, and for vLLM's figures at the one with an engine."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = {"groups": [{"name": "reranker", "rules": [rule | {"for": "0s"} for rule in _rules()]}]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    exporters = [watched.exporter, exporter_of(service)]
    jobs: list[dict[str, Any]] = [
        {"job_name": "ray", "static_configs": [{"targets": exporters}]},
        {"job_name": "node", "static_configs": [{"targets": [watched.node]}]},  # as on a cluster
        {"job_name": "service", "static_configs": [{"targets": [service.url.removeprefix("http://")]}]},
    ]
    times = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    config = {"global": times, "rule_files": ["rules.yaml"], "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_up(f"http://{address}/-/ready", server), 30)
        yield Prometheus(f"http://{address}", WINDOW)
    finally:
        server.terminate()
        server.wait(30)


def _is_up(url: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "Prometheus ended"
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


def _rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def _ordinary(service: Service) -> None:
    """Long lists and short ones, some twice, in several dialects; repeated, long, and badly scored documents."""
    for number in range(6):
        service.rerank(f"query {number % 3}", documents(200))
        service.rerank(f"query {number}", [*documents(5), *documents(5)])
    texts = ["capital " * 20_000, "short"]
    service.rerank("long", texts, long_documents="windows", score_threshold=0.99)
    service.rerank("long", texts, cache="off")
    with httpx.Client(base_url=service.url, headers=service.headers, timeout=60) as client:
        client.post("/rerank", json={"query": "a", "texts": ["b"]}).raise_for_status()
        client.post("/score", json={"text_1": "a", "text_2": ["b"]}).raise_for_status()
        with contextlib.suppress(httpx.TimeoutException):  # a client that hangs up
            client.post("/v1/rerank", json={"query": "gone", "documents": documents(600)}, timeout=0.3)
    with ThreadPoolExecutor(4) as clients:  # the same list at the same time is scored once
        list(clients.map(lambda _: service.rerank("together", documents(300)), range(4)))


def _kill_one_at_work(service: Service) -> None:
    """Nobody's list fails by it."""
    victim = min(service.replica_processes(), key=lambda one: one.pid)
    killed = threading.Event()

    def ask_until_killed(client: int) -> None:
        while True:
            last = killed.is_set()
            # Refused is not failed: for a moment there is half of the service.
            assert service.post(f"kill {client}", documents(400), cache="off").status_code in {200, 429}
            if last:
                return

    with ThreadPoolExecutor(3) as clients:
        survivors = [clients.submit(ask_until_killed, one) for one in range(3)]
        try:
            wait_until(lambda: all(one["pending_tokens"] > 4_000 for one in service.load()["replicas"]))
            victim.kill()
        finally:
            killed.set()
        for one in survivors:
            one.result()
    service.wait_until_ready(2)


def _trouble(watched: Watched) -> None:
    """More than fits, less time than is needed, keys that may not, a replica that dies, a Redis that is gone."""
    service = watched.service
    for _ in range(8):  # more than one in a hundred of all that other tests have sent as well
        service.post("too little time", documents(900), timeout_s=0.05, cache="off")
    service.post("too little time", documents(900), timeout_s=0.5, allow_partial=True, cache="off")
    with ThreadPoolExecutor(24) as clients:
        asked = [clients.submit(service.post, f"flood {one}", documents(400), cache="off") for one in range(24)]
        statuses = {one.result().status_code for one in asked}
    assert statuses == {200, 429}
    for _ in range(2):
        service.post("quota", documents(20), headers={"authorization": "Bearer key-of-few"})
    service.post("no such key", ["a"], headers={"authorization": "Bearer nobody"})
    service.wait_until_idle()
    for _ in range(3):  # on a slow machine what it had is done by the time it is killed
        _kill_one_at_work(service)
        if metrics_of(service, SCRAPE_KEY)["reranker_retried_shards_total"]:
            break
    watched.redis.kill()
    for number in range(30):
        service.rerank(f"without redis {number}", documents(3))
    watched.redis.start()


def _sides(alert: dict[str, Any]) -> list[str]:
    """What an alert compares: the queries in its expression."""
    whole = re.split(r" unless on\(\) ", alert["expr"])
    sides = [one for part in whole for one in re.split(r" (?:>|==) ", re.sub(r"\babsent\((.*)\)", r"\1", part))]
    return [one for one in sides if not re.fullmatch(r"[\d.]+", one)]


def test_every_query_has_an_answer_and_what_is_provoked_fires(
    prometheus: Prometheus, watched: Watched, service: Service
) -> None:
    began_s = time.time()
    fired: set[str] = set()

    def not_fired() -> set[str]:
        fired.update(name for name, state in prometheus.alerts().items() if state == "firing")
        return set(PROVOKED) - fired

    service.rerank("a question of some length for the prefix cache " * 8, documents(12), cache="off")
    for _ in range(2):  # a rate needs a before
        _ordinary(watched.service)
        time.sleep(2)
    _trouble(watched)
    service.rerank("another question of some length for the cache " * 8, documents(12), cache="off")

    def unanswered() -> list[str]:
        queries = [query.promql for row in ROWS for panel in row.panels for query in panel.queries]
        queries += [side for alert in _rules() for side in _sides(alert)]
        return [one for one in queries if not _has_data(prometheus, one, began_s)]

    deadline = time.monotonic() + 60
    while left := [*not_fired(), *unanswered()]:
        assert time.monotonic() < deadline, left
        time.sleep(2)


def _has_data(prometheus: Prometheus, query: str, began_s: float) -> bool:
    lines = prometheus.between(query, began_s, time.time(), 1)
    return any(math.isfinite(value) for line in lines for _, value in line.points)


def test_prometheus_sums_what_the_service_counted(prometheus: Prometheus, watched: Watched) -> None:
    """Over all replicas, those that ended as well; and a rate over them sees no jump where one ends."""
    watched.service.wait_until_idle()
    increase = 'sum(increase(reranker_engine_pairs_total{job="node"}[20s]))'

    def value(query: str) -> float | None:
        lines = prometheus.now(query)
        return lines[0].points[0][1] if lines else None

    wait_until(lambda: value(increase) == 0, 60)  # what tests before this one have sent
    [victim, *_] = watched.service.replica_processes("EngineReplica")
    killed_s = time.time()
    victim.kill()
    victim.wait(30)
    watched.service.wait_until_ready(2)
    counted = metrics_of(watched.service, SCRAPE_KEY)
    for name in ("documents", "engine_pairs"):
        query = f'sum(reranker_{name}_total{{job="node"}})'
        wait_until(lambda: value(query) == counted[f"reranker_{name}_total"] > 0, 40)  # noqa: B023
    wait_until(lambda: value('count(reranker_engines{job="node"} == 1)') == 2, 40)
    [line] = prometheus.between(increase, killed_s, time.time(), 1)
    assert {rise for _, rise in line.points} == {0}


def test_drawn_dashboard_has_every_panel(prometheus: Prometheus, tmp_path: Path) -> None:
    """The picture in the docs is of a run of this: DASHBOARD_PICTURE=docs/dashboard.svg."""
    from tools.dashboard.drawing import draw

    file = Path(os.environ.get("DASHBOARD_PICTURE", tmp_path / "dashboard.svg"))
    end_s = time.time()
    draw(prometheus, file, end_s - 120, end_s)
    drawn = file.read_text()
    assert [panel.title for row in ROWS for panel in row.panels if f">{escape(panel.title)}<" not in drawn] == []
