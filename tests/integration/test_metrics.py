"""What becomes of documents, and what vLLM does, can be read at `/metrics`."""

from __future__ import annotations

from tests.integration.conftest import Service
from tests.integration.scraping import metrics_of
from tests.integration.traffic import documents, wait_until


def test_cut_windowed_and_excluded_documents_and_what_the_cache_saves_are_counted(service: Service) -> None:
    before = metrics_of(service)
    long = "Gravity attracts bodies. " * 4_000
    service.rerank("capital", [long, "short"], cache="off")
    service.rerank("capital", [long, "short"], cache="off", long_documents="windows")
    service.rerank("capital", ["short", "shorter"], cache="off", score_threshold=1)
    for _ in range(2):
        service.rerank("which of these is counted", [*(f"document {number}" for number in range(9)), "document 0"])
    risen = {name: value - before[name] for name, value in metrics_of(service).items()}
    kinds = ("truncated", "windowed", "excluded")
    assert [risen[f"reranker_{kind}_documents_total"] for kind in kinds] == [1, 1, 2]
    saved = ("cache_hits", "cache_misses", "deduplicated_pairs")
    assert [risen[f"reranker_{kind}_total"] for kind in saved] == [9, 9, 2]
    assert risen["reranker_documents_total"] == 26


def test_real_vllm_says_what_its_prefix_cache_saves(service: Service) -> None:
    before = metrics_of(service)
    service.rerank("a long question " * 30, documents(12), cache="off")
    wait_until(lambda: metrics_of(service)["reranker_engine_pairs_total"] >= before["reranker_engine_pairs_total"] + 12)
    now = metrics_of(service)
    risen = {name: value - before[name] for name, value in now.items()}
    queried, hit = (risen[f"reranker_vllm_prefix_cache_{kind}_tokens_total"] for kind in ("queried", "hit"))
    assert 0 < hit < queried  # the list's head is computed once
    assert now["reranker_engine_startup_checks_total"] == now["reranker_engine_load_seconds_count"] >= 1
    assert risen["reranker_engine_busy_seconds_total"] > 0
