"""Lists that an ingress hands over in an update: who takes them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from deployments.ingress import Ingress
from reranker.errors import NotReadyError
from reranker.ranking.placement import Placement
from reranker.types import Caller, Ranking, RankRequest, ServedModel

OLD, NEW = ServedModel("a", deployed="old"), ServedModel("b", deployed="new")
RANKING: Any = object()


def _ingress(own: ServedModel, engines: list[ServedModel]) -> Any:  # Any: what `rank_for_another` uses of one
    placement = Placement()
    placement.own = own
    placement.set_live(map(str, range(len(engines))), {str(n): one for n, one in enumerate(engines)})

    async def rank(*_: object) -> list[Ranking]:
        if not placement.live_replicas:
            await asyncio.Event().wait()  # for an engine
        return [RANKING]

    models = SimpleNamespace(has_its_turn_for=lambda _: placement.has_its_turn)
    return SimpleNamespace(draining=False, _models=models, rank=rank)


async def _asked(ingress: Any) -> Any:
    async with asyncio.timeout(5):
        return await Ingress.rank_for_another(ingress, [RankRequest("q", ("d",))], Caller("tests"), "id", 0)


async def test_new_ingress_with_engines_takes_it() -> None:
    assert await _asked(_ingress(NEW, [NEW, NEW, OLD])) == [RANKING]


async def test_old_ingress_whose_engines_have_gone_does_not() -> None:
    """Serve waits for what a replica is asked before it tells it to leave: the list would wait until it is killed."""
    assert await _asked(_ingress(OLD, [NEW, NEW])) is None


async def test_ingress_without_any_engine_does_not() -> None:
    assert await _asked(_ingress(NEW, [])) is None


async def test_ingress_that_leaves_does_not() -> None:
    ingress = _ingress(NEW, [NEW])
    ingress.draining = True
    assert await _asked(ingress) is None


async def test_error_is_an_answer() -> None:
    async def rank(*_: object) -> list[Ranking]:
        raise NotReadyError

    ingress = _ingress(NEW, [NEW])
    ingress.rank = rank
    assert isinstance(await _asked(ingress), NotReadyError)
