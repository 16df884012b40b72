"""A replica's end of the socket: scores are the lengths of the documents, and come when the test lets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from reranker.transport.server import ShardServer
from reranker.types import EngineScores, ServedModel, Shard, ShardScores, ShardTerms
from tests.unit.fleets import scores

MODEL = ServedModel("model", "name", "takes", "deployed")


class Replica:
    """A server whose scoring waits for the test; a shard's scores are the lengths of its documents."""

    def __init__(self, model: ServedModel = MODEL) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[ShardTerms] = []
        self.dropped: list[ShardTerms] = []
        self.fails: Exception | None = None
        self.server = ShardServer("127.0.0.1", model, self._score)
        self.address = self.server.address

    async def _score(self, one: Shard, terms: ShardTerms) -> ShardScores:
        self.begun.append(terms)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped.append(terms)
            raise
        if self.fails is not None:
            raise self.fails
        return ShardScores(lengths(one), "replica")


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    yield replica
    replica.gate.set()
    await replica.server.drain()


def lengths(one: Shard) -> EngineScores:
    return scores(*(one.offsets[1:] - one.offsets[:-1]).tolist())


async def until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not so():  # noqa: ASYNC110 - what is at the other end of the socket has no event to wait for
            await asyncio.sleep(0.001)
