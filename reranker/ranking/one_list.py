"""One list of a request, and how it is ranked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from reranker.model.prompt import CuttingPolicy
from reranker.record import RequestRecord
from reranker.types import RankRequest


@dataclass(frozen=True, slots=True)
class OneList:
    """One list of a request, and how it is ranked."""

    request: RankRequest
    number: int  # from 0, among the lists of the request
    record: RequestRecord
    caller: str
    documents: Sequence[str]  # as far as they are read: `PromptRenderer.readable`
    timeout_s: float  # counted from the request's head, so that reading and parsing count too
    margin_s: float  # of it, for what comes after the scores
    instruction: str
    cutting: CuttingPolicy
    adapter: str  # empty: the model itself, whatever the client calls it
    weight: float
    namespace: str  # whose scores may be used. Empty: everybody's
    owners: Sequence[int] = ()  # indices in the request's documents of those that the texts are parts of; (): their own

    @property
    def deadline_s(self) -> float:
        """On the event loop's clock, which is `time.monotonic`'s."""
        return self.record.began_s + self.timeout_s - self.margin_s

    @property
    def left_s(self) -> float:
        return self.deadline_s - asyncio.get_running_loop().time()
