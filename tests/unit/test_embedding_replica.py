"""What comes while a batch is embedded is the next batch, and everybody gets their own vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deployments.search import EmbeddingReplica
from reranker.config import EmbeddingConfig
from reranker.search.embedding import SIMULATED
from reranker.types import FloatArray


class CountingModel:
    """Embeds a text as its length, and fails on an empty one."""

    def __init__(self) -> None:
        self.prompts = self
        self.batches: list[int] = []

    def ids(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        return [[1] * len(text) for text in texts]

    def embed_ids(self, prompts: Sequence[list[int]]) -> FloatArray:
        self.batches.append(len(prompts))
        time.sleep(0.05)
        if [] in prompts:
            raise ValueError("a text is empty")
        return np.asarray([[len(ids)] for ids in prompts], dtype=np.float32)


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> EmbeddingReplica:
    monkeypatch.setattr("deployments.search.join_serve", lambda: None)
    replica = EmbeddingReplica(EmbeddingConfig(model=SIMULATED), "cpu")
    monkeypatch.setattr(replica, "model", CountingModel())
    return replica


async def test_calls_at_the_same_time_share_batches_and_get_their_own_vectors(replica: EmbeddingReplica) -> None:
    calls = [["a" * (number + 1), "bb"][: number % 2 + 1] for number in range(20)]
    found = await asyncio.gather(*(replica.embed(texts, "document") for texts in calls))
    assert [one[:, 0].tolist() for one in found] == [[len(text) for text in texts] for texts in calls]
    model: Any = replica.model
    batches = model.batches
    assert sum(batches) == sum(map(len, calls))
    assert len(batches) < len(calls) / 2


async def test_failure_is_told_to_who_waits_and_stops_nothing(replica: EmbeddingReplica) -> None:
    with pytest.raises(ValueError, match="empty"):
        await replica.embed([""], "document")
    assert (await replica.embed(["abc"], "document")).tolist() == [[3]]
