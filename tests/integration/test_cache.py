"""What was scored once is not scored again, in the service as `make serve` starts it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Service
from tests.integration.traffic import documents, scores_of

QUERY = "which capital is asked for twice"


def test_list_seen_before_reaches_no_engine_and_has_the_same_scores(service: Service) -> None:
    texts = documents(200, seed=1)
    first, again = service.rerank(QUERY, texts), service.rerank(QUERY, texts)
    assert first["meta"]["pairs"] == first["usage"]["cached_documents"] + 200 == 200
    assert (again["meta"]["pairs"], again["meta"]["shards"]) == (0, 0)
    assert again["usage"]["cached_documents"] == 200
    assert again["results"] == first["results"]
    assert scores_of(service.rerank(QUERY, texts, cache="off")) == pytest.approx(scores_of(first), abs=1e-5)


@pytest.mark.parametrize("change", [{"query": "another"}, {"instruction": "another"}, {"max_tokens_per_doc": 5}])
def test_what_changes_scores_is_scored(service: Service, change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"query": f"{QUERY} {change}", "documents": documents(20, seed=2)}
    assert service.rerank(**request)["meta"]["pairs"] == 20
    assert service.rerank(**request | change)["meta"]["pairs"] == 20


def test_request_can_do_without(service: Service) -> None:
    query, texts = f"{QUERY} or not", documents(20, seed=3)
    pairs = [
        service.rerank(query, texts, **fields)["meta"]["pairs"]
        for fields in ({"cache": "off"}, {"cache": "read"}, {}, {"cache": "read"}, {"cache": "refresh"}, {})
    ]
    assert pairs == [20, 20, 20, 0, 20, 0]


def test_64_clients_with_the_same_new_list_have_each_pair_scored_once(service: Service) -> None:
    query, texts = f"{QUERY} by many", documents(100, seed=4)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: service.rerank(query, texts), range(64)))
    assert sum(answer["meta"]["pairs"] for answer in answers) == 100
    assert all(answer["results"] == answers[0]["results"] for answer in answers)
    service.wait_until_idle()
