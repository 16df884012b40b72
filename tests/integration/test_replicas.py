"""One list over two real replicas: both work on it, the answer is the single replica's, and one of them may die."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Cluster, Service, configuration
from tests.integration.traffic import QUERY, RankedList, Traffic, documents, scores_of, wait_until

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
"""Not ==: the order of float32 sums differs with what else is in a batch."""


@pytest.fixture(scope="module")
def two(cluster: Cluster) -> Service:
    """Two replicas with vLLM and the demo model, which nothing is remembered of: every list is to be scored."""
    return cluster.serve("two", lambda _: configuration(2, args={"cache": {"enabled": False}}))


def test_list_split_over_two_replicas_equals_its_parts_on_one(two: Service) -> None:
    texts = documents(240)
    split = two.rerank(QUERY, texts)
    assert (split["meta"]["shards"], split["meta"]["replicas"]) == (2, 2)
    parts = [two.rerank(QUERY, texts[start : start + 10]) for start in range(0, len(texts), 10)]
    assert {part["meta"]["shards"] for part in parts} == {1}  # not worth a second hop
    assert split["usage"]["prompt_tokens"] == sum(part["usage"]["prompt_tokens"] for part in parts)
    single = {
        10 * number + index: score for number, part in enumerate(parts) for index, score in scores_of(part).items()
    }
    assert scores_of(split) == pytest.approx(single, rel=0, abs=TOLERANCE)
    scores = list(scores_of(split).values())
    assert scores == sorted(scores, reverse=True)


def test_killed_replica_costs_no_request_and_no_score(two: Service) -> None:
    """SIGKILL under load; the other one answers until there are two again, and all the scores are those from before."""
    texts = documents(240)
    lists = [
        RankedList(query, texts, scores_of(two.rerank(query, texts)), TOLERANCE) for query in (QUERY, "music", "iron")
    ]
    with Traffic(two, lists, clients=2) as traffic:
        traffic.wait_for(4)
        [victim, _] = two.replica_processes()
        victim.kill()
        wait_until(lambda: victim not in two.replica_processes())
        traffic.wait_for(4)
        wait_until(lambda: len(two.replica_processes()) == 2)
        two.wait_until_ready(2)
        traffic.wait_for(4)
    assert traffic.problems == []
    two.wait_until_idle()
    last = two.post(QUERY, texts)
    assert lists[0].problem(last) is None
    assert last.json()["meta"]["replicas"] == 2
