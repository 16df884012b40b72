"""A small list does not wait for a long one: engines serve lists by turns, and people before jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Service
from tests.integration.traffic import QUERY, RankedList, documents, wait_until


def _busy(service: Service) -> bool:
    """Whether its engine has pairs to score; more telling than that an answer is not here yet."""
    return any(replica["pending_tokens"] for replica in service.load()["replicas"])


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_ten_documents_sent_during_a_thousand_are_answered_first(narrow: Service, priority: str) -> None:
    """With one engine, in which the thousand wait already: their order is the engine's doing."""
    small = RankedList.simulated(1, 10)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(narrow.rerank, QUERY, documents(1_000, words=(3, 10)), priority=priority)
        wait_until(lambda: _busy(narrow))
        response = narrow.post(small.query, small.documents)
        assert _busy(narrow)
        assert small.problem(response) is None
        assert len(long.result()["results"]) == 1_000
    narrow.wait_until_idle()


def test_people_overtake_a_job_that_began_before(narrow: Service) -> None:
    """Two lists of the same size, the interactive one sent second: with eight times the share it ends first."""
    texts = documents(700, words=(3, 10))  # nearly a second each
    narrow.rerank(QUERY, texts[:10])
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(narrow.rerank, "a job", texts, priority="bulk")
        wait_until(lambda: _busy(narrow))
        narrow.rerank("somebody waits", texts)
        assert _busy(narrow)
        assert len(job.result()["results"]) == len(texts)
    narrow.wait_until_idle()
