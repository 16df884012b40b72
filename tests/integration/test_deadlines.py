"""An answer when it is due: whole, or what there is by then where that is wanted, or 504. Never Ray's 408."""

from __future__ import annotations

import pytest

from tests.integration.conftest import NARROW_TIMEOUT_S, NARROW_TOKENS, Service
from tests.integration.traffic import QUERY, documents, scores_of, simulated_scores, work_tokens

LONG = documents(2_000)  # some two seconds for four replicas, eight for one


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {"timeout_s": 0.3}),
        ({"X-Reranker-Timeout-S": "0.3"}, {}),
        ({"X-Request-Timeout-Seconds": "0.3"}, {}),
        ({"X-Reranker-Timeout-S": "0.3"}, {"timeout_s": 60}),
        ({"X-Reranker-Timeout-S": "60"}, {"timeout_s": 0.3}),
    ],
    ids=["in the body", "in our header", "in Ray's header", "header before body", "body before header"],
)
def test_list_that_takes_too_long_is_a_504_in_json(
    simulated: Service, headers: dict[str, str], fields: dict[str, float]
) -> None:
    response = simulated.post(QUERY, LONG, headers, **fields)
    assert response.status_code == 504
    answer = response.json()
    assert answer["error_type"] == "deadline_exceeded"
    assert answer["message"] == "the list was not scored within 0.3 s"
    simulated.wait_until_idle()


@pytest.mark.parametrize("header", ["X-Reranker-Timeout-S", "X-Request-Timeout-Seconds"])
@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_header_that_is_no_time_is_refused_by_name(simulated: Service, header: str, value: str) -> None:
    """Ray drops a value it cannot read without a word; a client would wait for as long as the limit."""
    response = simulated.post(QUERY, ["a"], {header: value})
    assert response.status_code == 400
    assert response.json()["field"] == header


def test_time_that_suffices_changes_nothing(simulated: Service) -> None:
    texts = documents(300)
    answer = simulated.rerank(QUERY, texts, timeout_s=60, allow_partial=True)
    assert scores_of(answer) == simulated_scores(QUERY, texts)
    assert "unscored" not in answer


def test_partial_answer_ranks_what_is_scored_and_lists_the_rest(simulated: Service) -> None:
    """Of several shards, each cut off by its replica."""
    _require_partial(simulated)


def test_partial_answer_of_one_replica_is_one_as_well(narrow: Service) -> None:
    _require_partial(narrow)


def _require_partial(service: Service) -> None:
    answer = service.rerank(QUERY, LONG, timeout_s=1, allow_partial=True)
    scored, unscored = [one["index"] for one in answer["results"]], [one["index"] for one in answer["unscored"]]
    assert scored
    assert unscored
    assert sorted(scored + unscored) == list(range(len(LONG)))
    expected = simulated_scores(QUERY, LONG)
    assert [one["relevance_score"] for one in answer["results"]] == [expected[index] for index in scored]
    assert scored == sorted(scored, key=lambda index: (-expected[index], index))
    service.wait_until_idle()


def test_partial_answer_without_a_single_score_is_a_504(narrow: Service) -> None:
    response = narrow.post(QUERY, LONG, timeout_s=0.01, allow_partial=True)
    assert response.status_code == 504
    narrow.wait_until_idle()


def test_client_gets_no_more_time_than_the_limit(narrow: Service) -> None:
    texts = documents(2_400)
    assert 1.2 * NARROW_TIMEOUT_S * 10_000 < work_tokens(QUERY, texts) < NARROW_TOKENS
    response = narrow.post(QUERY, texts, timeout_s=600)
    assert response.status_code == 504
    assert response.json()["message"] == f"the list was not scored within {NARROW_TIMEOUT_S} s"
    narrow.wait_until_idle()
