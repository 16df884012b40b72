"""What clients counted is what `/metrics` and Ray's exporter show: with several replicas, and after kills."""

from __future__ import annotations

import time
from collections.abc import Mapping

import httpx

from tests.integration.monitoring.conftest import KEY, SCRAPE_KEY, Watched
from tests.integration.scraping import metrics_of
from tests.integration.traffic import RankedList, Traffic, documents, wait_until

COUNTED = ("reranker_requests_total", "reranker_documents_total", "reranker_prompt_tokens_total")


def test_metrics_and_rays_exporter_give_what_clients_counted_also_after_kills(watched: Watched) -> None:
    """Point by point: two ingresses answer, each counts for itself; then one ingress and one engine die."""
    service = watched.service
    before = metrics_of(service, SCRAPE_KEY)
    counted = dict.fromkeys(COUNTED, 0.0)
    seed = 0
    for victim in (None, "Ingress", "EngineReplica"):
        seed += 100
        with Traffic(service, [RankedList.simulated(seed + number, 40) for number in range(60)]) as traffic:
            traffic.wait_for(20)
            if victim is not None:
                process = min(service.replica_processes(victim), key=lambda one: one.pid)
                process.kill()
                process.wait(30)
            traffic.wait_for(20)
        if victim != "Ingress":  # then connections are reset, and their clients have no answer
            assert traffic.problems == []
        counted["reranker_requests_total"] += len(traffic.answers)
        counted["reranker_documents_total"] += sum(len(answer["results"]) for answer in traffic.answers)
        counted["reranker_prompt_tokens_total"] += sum(answer["usage"]["prompt_tokens"] for answer in traffic.answers)
        risen = _risen(metrics_of(service, SCRAPE_KEY), before)
        if victim == "Ingress":  # it may have counted what its client has not read: no more than it had open
            assert 0 <= risen["reranker_requests_total"] - counted["reranker_requests_total"] <= traffic.clients
            counted = risen
        assert risen == counted, victim
    wait_until(lambda: len(service.replica_processes("Ingress")) == 2)
    service.wait_until_ready(2)
    for _ in range(8):  # whichever of the two answers
        assert _risen(metrics_of(service, SCRAPE_KEY), before) == counted
    _wait_for_ray(watched, metrics_of(service, SCRAPE_KEY))


def test_ledger_that_is_killed_knows_everything_again_and_goes_on_telling_ray(watched: Watched) -> None:
    service = watched.service
    before = metrics_of(service, SCRAPE_KEY)
    _wait_for_ray(watched, before)
    [ledger] = [one for one in service.processes() if one.cmdline()[:1] == ["ray::LedgerActor"]]
    ledger.kill()
    ledger.wait(30)
    answer = service.rerank("after the ledger's end", documents(30))
    expected = {name: before[name] for name in COUNTED}
    for name, more in zip(COUNTED, (1, 30, answer["usage"]["prompt_tokens"]), strict=True):
        expected[name] += more
    now = metrics_of(service, SCRAPE_KEY)
    assert {name: now[name] for name in COUNTED} == expected
    _wait_for_ray(watched, expected)


def _wait_for_ray(watched: Watched, totals: Mapping[str, float]) -> None:
    wanted = {name: totals[name] for name in COUNTED}
    deadline = time.monotonic() + 60
    while (shown := {name: watched.exported()[f"ray_{name}"] for name in COUNTED}) != wanted:
        assert time.monotonic() < deadline, (shown, wanted)
        time.sleep(0.5)


def _risen(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: now[name] - before[name] for name in COUNTED}


def test_scrape_needs_its_key_and_no_replica_that_answers(watched: Watched) -> None:
    url = f"{watched.service.url}/metrics"
    for key, status in ((None, 401), (KEY, 403), (SCRAPE_KEY, 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert httpx.get(url, headers=headers, timeout=30).status_code == status
    stopped = list(watched.service.replica_processes("EngineReplica"))
    for process in stopped:
        process.suspend()
    try:
        assert "reranker_documents_total" in httpx.get(url, headers=headers, timeout=30).text
    finally:
        for process in stopped:
            process.resume()
