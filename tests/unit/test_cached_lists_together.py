"""Whatever lists come at once, and whoever hangs up or fails: the others get their own scores, and all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.errors import ServiceError
from reranker.types import EngineScores
from tests.unit.fleets import Call, by_length
from tests.unit.rankers import TEXTS, Ingress, Ranked, request_for


@dataclass(frozen=True)
class Client:
    """What one client does."""

    documents: tuple[int, ...]
    starts: int
    """After so many turns of the event loop."""
    hangs_up: int | None
    """After so many more. None: never."""
    bulk: bool


CLIENTS = st.lists(
    st.builds(
        Client,
        documents=st.lists(st.integers(0, 11), min_size=1, max_size=12).map(tuple),
        starts=st.integers(0, 30),
        hangs_up=st.none() | st.integers(0, 30),
        bulk=st.booleans(),
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=60)
@given(clients=CLIENTS, failing=st.sets(st.integers(0, 8), max_size=3))
def test_lists_at_once_are_scored_as_they_are_alone(clients: list[Client], failing: set[int]) -> None:
    asyncio.run(_all_at_once(clients, failing))


async def _all_at_once(clients: list[Client], failing: set[int]) -> None:
    async def act(call: Call) -> EngineScores:
        await asyncio.sleep(0.001)
        if call.number in failing:
            raise ServiceError("a sentence")
        return await by_length(call)

    ingress = Ingress(act)
    alone = {one: await Ingress().rank(request_for([TEXTS[i] for i in one.documents])) for one in set(clients)}
    tasks = [asyncio.create_task(_client(ingress, one)) for one in clients]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for one, answer in zip(clients, answers, strict=True):
        if isinstance(answer, Ranked):
            assert answer.results == alone[one].results
        elif isinstance(answer, ServiceError):
            assert failing
        else:
            assert isinstance(answer, asyncio.CancelledError)
            assert one.hangs_up is not None
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait([task])
    ingress.require_idle()
    unsettled = failing or any(one.hangs_up is not None for one in clients)
    if not unsettled and len({one.bulk for one in clients}) == 1:
        # Nobody took over and nobody outranked anybody; only a list an eighth as long may have gone ahead by itself.
        distinct = {document for one in clients for document in one.documents}
        assert ingress.pairs <= len(distinct) + sum(len(set(one.documents)) == 1 for one in clients)


async def _client(ingress: Ingress, client: Client) -> Ranked:
    for _ in range(client.starts):
        await asyncio.sleep(0)
    request = request_for([TEXTS[i] for i in client.documents], priority="bulk" if client.bulk else "interactive")
    ranking = asyncio.create_task(ingress.rank(request))
    if client.hangs_up is not None:
        for _ in range(client.hangs_up):
            await asyncio.sleep(0)
        ranking.cancel()
    return await ranking
