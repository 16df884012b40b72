"""While a deployment changes the model, a list is scored by one of the two, by its ingress's own, and named so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import pytest

from reranker.config import ScatterConfig
from reranker.errors import NotReadyError, ReplicaLostError
from reranker.ranking.placement import ModelGoneError, Placement, Route
from reranker.ranking.ranker import Ranker
from reranker.ranking.scatter import Dispatch, HandOverError, Scatter
from reranker.record import RequestRecord, ShardRecord
from reranker.types import ANONYMOUS, EngineScores, RankRequest, ServedModel
from tests.unit.fleets import Call, FakeFleet, by_length, one_pair_shards, scores
from tests.unit.rankers import CONFIG, RENDERER, TEXTS, Ingress, rank, request_for, require_idle

OLD = ServedModel("old weights", "old", "the same lists", "old settings")
NEW = ServedModel("new weights", "new", "the same lists", "new settings")
OWN = ServedModel("", "new", "the same lists", "new settings")
FOREIGN = ServedModel("foreign", "foreign", "other lists", "foreign settings")


def _placement(own: ServedModel | None = OWN, **models: ServedModel) -> Placement:
    placement = Placement(seed=0)
    placement.own = own
    placement.set_live(models, models)
    return placement


def _taken(placement: Placement, times: int = 30, model: str | None = None) -> set[str]:
    names = set()
    for _ in range(times):
        with placement.send(Route(Counter(), model=model), 1) as name:
            names.add(name)
    return names


def test_lists_go_to_the_own_model_once_one_engine_has_it() -> None:
    placement = _placement(a=OLD, b=OLD, c=NEW)
    assert placement.model == NEW
    assert (_taken(placement), placement.live_replicas) == ({"c"}, 1)
    assert list(placement.shortlist(5).replicas) == ["c"]


def test_until_then_they_go_to_engines_that_take_the_same_lists() -> None:
    placement = _placement(a=OLD, b=OLD, c=FOREIGN)
    assert placement.model == OLD
    assert _taken(placement) == {"a", "b"}


def test_identity_is_that_of_the_own_model_only() -> None:
    """Under the own name nothing may be said of the model that an update replaces."""
    assert _placement(a=OLD, b=OLD, c=NEW).own_identity == NEW.identity
    assert _placement(a=OLD).own_identity == _placement(a=FOREIGN).own_identity == _placement().own_identity == ""


def test_engines_that_are_prompted_otherwise_never_get_a_list() -> None:
    placement = _placement(a=FOREIGN, b=ServedModel("of an older release"))
    assert (placement.model, placement.live_replicas, placement.any_yet) == (None, 0, False)
    with pytest.raises(ModelGoneError):
        _taken(placement)
    placement.set_live("ac", {"a": FOREIGN, "c": NEW})
    assert _taken(placement) == {"c"}


def test_of_two_models_of_the_own_settings_the_one_that_most_engines_hold_is_taken() -> None:
    """Weights may be changed in their place, under the same name."""
    changed = ServedModel("changed weights", OWN.name, OWN.takes, OWN.deployed)
    placement = _placement(a=NEW, b=changed, c=changed, d=OLD)
    assert _taken(placement) == {"b", "c"}


def test_list_stays_with_its_model_while_an_engine_holds_it() -> None:
    placement = _placement(a=OLD, b=OLD)
    placement.set_live("abc", {"a": OLD, "b": OLD, "c": NEW})
    assert _taken(placement, model=OLD.identity) == {"a", "b"}
    assert set(placement.shortlist(3, OLD.identity).replicas) == {"a", "b"}
    placement.set_live("c")
    for ask in (lambda: _taken(placement, model=OLD.identity), lambda: placement.shortlist(3, OLD.identity)):
        with pytest.raises(ModelGoneError):
            ask()
    placement.check_integrity()


@pytest.mark.parametrize(("models", "turn"), [("", False), ("ooo", False), ("oon", False), ("on", True), ("n", True)])
def test_new_ingress_has_its_turn_once_half_of_the_engines_are_its_own(models: str, turn: bool) -> None:
    kinds = {"o": OLD, "n": NEW}
    placement = _placement(**{f"replica{number}": kinds[one] for number, one in enumerate(models)})
    assert placement.has_its_turn is turn


async def test_shard_answered_by_another_model_than_asked_is_asked_elsewhere() -> None:
    fleet = FakeFleet(3)
    fleet.hold("another", "replica-0", known=False)
    scatter, record = Scatter(fleet, ScatterConfig()), RequestRecord()
    record.shards = [ShardRecord() for _ in range(6)]
    dispatch = Dispatch(asyncio.get_running_loop().time() + 5, model="model")
    answers = await scatter.gather(one_pair_shards(6), record.shards, dispatch)
    assert {answer.model for answer in answers if answer} == {"model"}
    assert all(answers)
    assert record.retries == fleet.replicas_used.count("replica-0") >= 1
    assert fleet.placement.live_replicas == 2  # it gets no more of such lists
    fleet.require_idle()


class Update:
    """Engines that are replaced after so many shards: the scores of the first are lengths, those of the others -3."""

    def __init__(self, shards: int, survivors: Iterable[str] = ()) -> None:
        self.fleet = FakeFleet(2, self)
        self._left, self._survivors = shards, tuple(survivors)

    async def __call__(self, call: Call) -> EngineScores:
        old = self.fleet.models[call.replica].identity == "model"
        answer = await by_length(call) if old else scores(*[-3.0] * len(call.shard))
        self._left -= 1
        if self._left == 0:
            self.fleet.hold("new", *(name for name in self.fleet.names if name not in self._survivors))
        elif self._left < 0 and old and call.replica not in self._survivors:
            raise ReplicaLostError
        return answer


async def test_list_whose_model_goes_in_the_middle_is_scored_again_as_a_whole() -> None:
    update = Update(shards=1)
    ranker = Ranker(CONFIG, RENDERER, update.fleet)
    ranking = await rank(ranker, RankRequest("which is longest", TEXTS))
    assert {one.log_odds for one in ranking.results} == {-3.0}
    assert (len(ranking.results), ranking.ranking.model) == (len(TEXTS), "new's name")
    assert ranking.pairs == len(TEXTS)  # of what the answer is made of
    require_idle(ranker, update.fleet)


async def test_list_whose_model_stays_somewhere_is_finished_with_it() -> None:
    update = Update(shards=1, survivors=["replica-1"])
    ranker = Ranker(CONFIG, RENDERER, update.fleet)
    ranking = await rank(ranker, RankRequest("which is longest", TEXTS))
    assert len({one.log_odds for one in ranking.results}) > 1
    assert -3.0 not in {one.log_odds for one in ranking.results}
    assert ranking.ranking.model == "model's name"
    require_idle(ranker, update.fleet)


@pytest.mark.parametrize("lists", [1, 30])
async def test_lists_that_no_engine_takes_any_more_are_handed_over(lists: int) -> None:
    """Whether they were begun or not: the ingress hears of it, whatever waits for an engine then."""
    update = Update(shards=1)
    fleet, ranker = update.fleet, Ranker(CONFIG, RENDERER, update.fleet)
    fleet.placement.own = ServedModel("", "old", "only the old takes these", "model")
    fleet.leaving = True
    requests = [RankRequest(f"which is longest {number}", TEXTS[: 200 // lists]) for number in range(lists)]
    for _ in range(2):
        with pytest.raises(HandOverError):
            await ranker.rank(requests, ANONYMOUS, RequestRecord())
    require_idle(ranker, fleet)


async def test_lists_of_one_request_are_all_scored_with_one_model() -> None:
    update = Update(shards=10)
    ranker = Ranker(CONFIG, RENDERER, update.fleet)
    lists = [RankRequest(f"which is longest {number}", TEXTS[:3]) for number in range(30)]
    rankings = await ranker.rank(lists, ANONYMOUS, RequestRecord())
    assert {ranking.model for ranking in rankings} == {"new's name"}
    assert {one.log_odds for ranking in rankings for one in ranking.results} == {-3.0}
    require_idle(ranker, update.fleet)


async def test_known_list_is_named_after_the_model_that_scored_it() -> None:
    ingress = Ingress()
    first = await ingress.rank(request_for())
    assert first.ranking.model == (await ingress.rank(request_for())).ranking.model == "model's name"
    ingress.fleet.hold("another")
    other = await ingress.rank(request_for())
    assert (other.ranking.model, other.pairs) == ("another's name", 20)
    ingress.fleet.hold("model")
    again = await ingress.rank(request_for())
    assert (again.ranking.model, again.pairs, again.results) == ("model's name", 0, first.results)


async def test_ingress_whose_engines_are_all_prompted_otherwise_waits_for_its_own() -> None:
    fleet = FakeFleet(2)
    fleet.placement.own = fleet.models["replica-0"]
    fleet.models |= {"replica-0": FOREIGN, "replica-1": FOREIGN}
    fleet.live(*fleet.names)
    ranker = Ranker(CONFIG, RENDERER, fleet)
    waiting = asyncio.create_task(rank(ranker, request_for()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not fleet.calls
    with pytest.raises(NotReadyError):
        await rank(ranker, request_for(timeout_s=0.01))
    fleet.hold("model", "replica-1")
    fleet.live(*fleet.names)
    assert (await waiting).ranking.model == "model's name"
    assert set(fleet.replicas_used) == {"replica-1"}
    require_idle(ranker, fleet)
