"""One list over two replicas: both work on it, and the answer is the single replica's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.conftest import Service, running

WORDS = ("capital", "china", "beijing", "river", "mountain", "paris", "music", "engine", "paper", "museum", "iron")
QUERY = "which capital has a museum by the river"


def _documents(count: int) -> list[str]:
    draw = random.Random(count)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 60))) for _ in range(count)]


def test_list_split_over_two_replicas_equals_the_list_on_one(service: Service, tmp_path: Path) -> None:
    documents = _documents(240)
    single = service.rerank(QUERY, documents)
    assert single["meta"]["replicas"] == 1
    with running(tmp_path, replicas=2) as two:
        split = two.rerank(QUERY, documents)
        small = two.rerank(QUERY, documents[:10])
    assert (split["meta"]["shards"], split["meta"]["replicas"]) == (2, 2)
    assert small["meta"]["shards"] == 1  # not worth a second hop
    assert split["usage"] == single["usage"]
    assert [result["index"] for result in split["results"]] == [result["index"] for result in single["results"]]
    for one, other in zip(split["results"], single["results"], strict=True):
        # Not ==: the order of float32 sums differs with what else is in a batch.
        assert one["relevance_score"] == pytest.approx(other["relevance_score"], abs=1e-5)
