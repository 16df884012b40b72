"""Too much at once: what does not fit is told when to come back, at once; the rest is answered as ever."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.integration.conftest import NARROW_TOKENS, Service
from tests.integration.traffic import QUERY, RankedList, documents, wait_until, work_tokens

HALF_A_SECOND = 380  # documents of a few words, for the narrow service


def _learn_speed(service: Service) -> None:
    """Admission counts in seconds once it has seen how fast the replicas are."""
    service.rerank(QUERY, documents(100))
    service.wait_until_idle()


def _require_refusal(response: httpx.Response) -> None:
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["error_type"] == "overloaded"
    wait_s = response.headers["Retry-After"]
    assert wait_s.isdecimal()
    assert int(wait_s) >= 1
    assert f"in {wait_s} s" in answer["message"]


def test_lists_beyond_the_queue_are_refused_and_the_others_answered(narrow: Service) -> None:
    _learn_speed(narrow)
    texts = documents(HALF_A_SECOND, words=(3, 10))
    lists = [RankedList.simulated(number, 1) for number in range(24)]
    with ThreadPoolExecutor(len(lists)) as pool:
        answers = list(pool.map(lambda one: narrow.post(one.query, [*one.documents, *texts]), lists))
    assert {answer.status_code for answer in answers} == {200, 429}
    for one, answer in zip(lists, answers, strict=True):
        if answer.status_code == 200:
            scores = {result["index"]: result["relevance_score"] for result in answer.json()["results"]}
            assert len(scores) == 1 + len(texts)
            assert scores[0] == one.scores[0]
        else:
            _require_refusal(answer)
    narrow.wait_until_idle()
    assert narrow.rerank(QUERY, documents(10))["results"]


def test_job_is_refused_before_people_are(narrow: Service) -> None:
    """A job may find half the queue full, somebody who waits may find all of it so."""
    _learn_speed(narrow)
    with ThreadPoolExecutor(1) as pool:
        occupying = pool.submit(narrow.rerank, QUERY, documents(1_100, words=(3, 10)))  # one and a half of 2 s
        wait_until(lambda: narrow.load()["replicas"][0]["pending_tokens"] > 0)
        job = narrow.post(QUERY, ["a"], priority="bulk")
        numbered = narrow.post(QUERY, ["a"], priority=5)
        people = narrow.post(QUERY, ["a"])
        assert not occupying.done()
        occupying.result()
    _require_refusal(job)
    _require_refusal(numbered)
    assert people.status_code == 200
    narrow.wait_until_idle()


def test_list_that_never_fits_is_told_the_limit(narrow: Service) -> None:
    """429 would have it sent again for ever."""
    texts = documents(3_000)
    tokens = work_tokens(QUERY, texts)
    assert tokens > NARROW_TOKENS
    response = narrow.post(QUERY, texts)
    assert response.status_code == 413
    answer = response.json()
    assert answer["error_type"] == "request_too_large"
    said = re.fullmatch(r"documents: (\d+) tokens; the limit is (\d+) in one request", answer["message"])
    assert said
    assert NARROW_TOKENS < int(said[1]) <= tokens  # refused as soon as too many are counted
    assert int(said[2]) == NARROW_TOKENS
    narrow.wait_until_idle()
