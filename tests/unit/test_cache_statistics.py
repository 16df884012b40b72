"""An operator sees one cache, however many ingress replicas there are."""

from __future__ import annotations

import pytest

from reranker.cache import Statistics
from reranker.cache.score_cache import report


def _statistics(hits: int, misses: int, reachable: bool = True) -> Statistics:
    memory = {"entries": 2, "bytes": 700}
    return {"hits": hits, "misses": misses, "coalesced": 1, "memory": memory, "redis": {"reachable": reachable}}


def test_numbers_are_added_and_truth_must_hold_everywhere() -> None:
    assert report([_statistics(3, 1), _statistics(4, 0, reachable=False)]) == {
        "enabled": True,
        "ingress_replicas": 2,
        "hit_rate": 0.9,
        "hits": 7,
        "misses": 1,
        "coalesced": 2,
        "memory": {"entries": 4, "bytes": 1_400},
        "redis": {"reachable": False},
    }


@pytest.mark.parametrize("uses", [[], [{"hits": 0, "misses": 0, "coalesced": 0}]])
def test_nothing_known_yet_is_no_rate(uses: list[Statistics]) -> None:
    assert report(uses).get("hit_rate") is None
    assert report(uses)["enabled"] is bool(uses)
