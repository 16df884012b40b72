"""What clients counted is what the metrics of all processes add up to: with several replicas, and after kills."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.integration.monitoring.conftest import KEY, SCRAPE_KEY, Watched
from tests.integration.scraping import Page, page_of
from tests.integration.traffic import RankedList, Traffic, documents, wait_until

pytestmark = pytest.mark.slow
COUNTED = ("reranker_requests_total", "reranker_documents_total", "reranker_prompt_tokens_total")
ENGINE_PAIRS = "reranker_engine_pairs_total"


def _page(watched: Watched) -> Page:
    return page_of(watched.service.url, {"Authorization": f"Bearer {SCRAPE_KEY}"})


def _counted(page: Page) -> dict[str, float]:
    return {name: page.sums()[name] for name in COUNTED}


def _risen(now: Page, before: Page) -> dict[str, float]:
    return {name: value - _counted(before)[name] for name, value in _counted(now).items()}


def test_all_processes_add_up_to_what_clients_counted_also_after_kills(watched: Watched) -> None:
    """Two ingresses answer, each counts for itself, two engines score; then one ingress and one engine die."""
    service = watched.service
    before = _page(watched)
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
        risen = _risen(_page(watched), before)
        if victim == "Ingress":  # it may have counted what its client has not read: no more than it had open
            assert 0 <= risen["reranker_requests_total"] - counted["reranker_requests_total"] <= traffic.clients
            counted = risen
        assert risen == counted, victim
    wait_until(lambda: len(service.replica_processes("Ingress")) == 2)
    service.wait_until_ready(2)
    for _ in range(8):  # whichever of the two answers
        assert _risen(_page(watched), before) == counted


def test_each_process_has_its_series_and_those_of_ended_ones_stay(watched: Watched) -> None:
    service = watched.service
    service.wait_until_ready(2)
    service.rerank("which engines", documents(400), cache="off")
    names = {one["name"] for one in service.load()["replicas"]}

    def pairs() -> dict[str, float]:
        return _page(watched).by("replica", ENGINE_PAIRS)

    def settled() -> bool:
        earlier = pairs()
        time.sleep(1.5)  # engines set their figures once a second
        return all(earlier.get(name) for name in names) and pairs() == earlier

    wait_until(settled)
    before = pairs()
    victim = min(service.replica_processes("EngineReplica"), key=lambda one: one.pid)
    victim.kill()
    victim.wait(30)
    after = pairs()
    assert after == before
    alive = _page(watched).by("replica", "reranker_engines")
    assert len(alive.keys() & names) == 1
    service.wait_until_ready(2)


def test_engines_and_ingresses_count_the_same_work(watched: Watched) -> None:
    """Ours is the whole load: what was scored for answers is what engines computed."""
    service = watched.service
    service.wait_until_idle()
    before = _page(watched)
    for number in range(5):
        service.rerank(f"the same work {number}", documents(100), cache="off")

    def risen(name: str) -> float:
        return _page(watched).sums()[name] - before.sums()[name]

    assert risen("reranker_scored_pairs_total") == 500
    for ours, engines in (("scored_pairs", "engine_pairs"), ("scored_tokens", "engine_tokens")):
        wait_until(lambda: risen(f"reranker_{engines}_total") >= risen(f"reranker_{ours}_total"), 20)  # noqa: B023
        assert risen(f"reranker_{engines}_total") == risen(f"reranker_{ours}_total")


def test_port_of_the_node_shows_the_same_series_as_the_service(watched: Watched) -> None:
    """Either is scraped; whichever replica answers, each series is there once, under its standard names.

    A page cannot count the answer that it is: these are left out.
    """

    def keys(page: Page) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(name, labels) for name, labels in page.series if ("path", "/metrics") not in labels}

    watched.service.wait_until_idle()
    for _ in range(4):
        service, node = _page(watched), page_of(f"http://{watched.node}")
        assert keys(service) == keys(node)
        assert _counted(service) == _counted(node)
    names = {name for name, _ in node.series if name.startswith("reranker_request_duration_seconds")}
    assert names == {f"reranker_request_duration_seconds_{ending}" for ending in ("bucket", "sum", "count")}
    assert all(name.startswith("reranker_") and "replica" in dict(labels) for name, labels in node.series)


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
