"""A ranker for lists that nobody waits for: a small part at a time, and only while no live work would wait for it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from reranker.ranking.admission import Permit
from reranker.ranking.one_list import OneList
from reranker.ranking.ranker import Ranker
from reranker.ranking.threads import FairThreads
from reranker.record import RequestRecord
from reranker.types import Caller, RankedDocument, Ranking, RankRequest

P = ParamSpec("P")
T = TypeVar("T")

_PART_S = 0.1
"""Engines have about so much of the work at a time: to other ingresses, which let live lists in, it is a queue."""
_LEAST_PART_TOKENS, _CHARACTERS_PER_TOKEN = 2_048, 4
_WEIGHT = 0.125  # of its class: in an engine it gets so much less, and no live list waits for what it is having scored
_LOOK_S = 0.05  # until it is looked again whether live work has come


class LiveWorkError(Exception):
    """Live work would wait for this."""


class UnhurriedRanker(Ranker):
    """Ranks one list with a live ranker's engines and cache, but with an admission and threads of its own."""

    def __init__(
        self, live: Ranker, numbers: itertools.count[int], threads: FairThreads, pressed: Callable[[], bool]
    ) -> None:
        """`numbers` of lists, none of that another ranker of these engines gives; `pressed`: live work would wait."""
        super().__init__(live.config, live.renderer, live.scatter.fleet, live.cache, live.name)
        self.numbers, self.threads, self._pressed = numbers, threads, pressed

    def _list(self, request: RankRequest, number: int, caller: Caller, record: RequestRecord) -> OneList:
        one = super()._list(request, number, caller, record)
        return replace(one, weight=one.weight * _WEIGHT)

    async def run(
        self, one: OneList, characters: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Always in the thread: the event loop is for live work."""
        return await self.threads.run(one.caller, function, *args, **kwargs)

    async def rank(
        self, lists: Sequence[RankRequest], caller: Caller, record: RequestRecord, permit: Permit | None = None
    ) -> list[Ranking]:
        """Rank the only list. A document's score does not depend on the others', so the parts make one ranking.

        Raises what `Ranker.rank` does, and LiveWorkError. Each part asks for a permit of its own, unless there is one.
        """
        [request] = lists
        results: list[RankedDocument] = []
        for start, end in self._parts(request.documents):
            part = replace(request, documents=request.documents[start:end])
            size_bytes = sum(map(len, part.documents)) + len(part.query)
            own = RequestRecord(record.request_id, began_s=record.began_s, body_bytes=size_bytes)
            [ranking] = await self._while_idle(super().rank([part], caller, own, permit))
            results += [replace(one, index=start + one.index) for one in ranking.results]
        results.sort(key=lambda one: (-one.relevance_score, -one.log_odds, one.index))  # as `scoring.rank` does
        return [Ranking(tuple(results), model=self.name)]

    def _parts(self, documents: Sequence[str]) -> Iterator[tuple[int, int]]:
        speed = self.placement.elsewhere().tokens_per_s or 0.0
        most = _CHARACTERS_PER_TOKEN * max(_LEAST_PART_TOKENS, int(_PART_S * speed))
        start = characters = 0
        for place, document in enumerate(documents):
            if characters and characters + len(document) > most:
                yield start, place
                start, characters = place, 0
            characters += len(document)
        yield start, len(documents)

    async def _while_idle(self, ranking: Coroutine[Any, Any, list[Ranking]]) -> list[Ranking]:
        task = asyncio.ensure_future(ranking)
        try:
            while not task.done():
                if self._pressed():
                    raise LiveWorkError
                await asyncio.wait([task], timeout=_LOOK_S)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
