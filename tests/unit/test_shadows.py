"""Shadows: they compare what they should, and live lists do not notice them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import checks
from reranker.config import RerankerConfig
from reranker.errors import (
    ConfigurationError,
    EngineFailedError,
    NotReadyError,
    OverloadedError,
    RequestTooLargeError,
)
from reranker.ranking import agreement, shadow, unhurried
from reranker.ranking.agreement import compare
from reranker.ranking.scatter import HandOverError
from reranker.ranking.shadow import Shadows, report
from reranker.record import RequestRecord
from reranker.types import Caller, Ranking, ReplicaLoad
from tests.unit.rankers import RENDERER, until
from tests.unit.several import CASCADES, MODELS, QUERY, TEXTS, Service, order, settings

BESIDE = {"of": "fast", "with": "best", "share": 1.0}


class Watched(Service):
    """A service whose shadows find the process idle, and draw what the test says."""

    def __init__(self, *shadows: Any, chance: float = 0.0, **more: Any) -> None:
        config = settings(shadows=list(shadows), **more)
        super().__init__(config)
        self.processor = 0.0
        rankers = {one.name: one.ranker for one in self.models.all}
        self.shadows = self.models.shadows = Shadows(config, rankers, lambda: self.processor, lambda: chance)

    async def answered(self, model: str | None = None, *arguments: Any, **fields: Any) -> Ranking:
        """Rank a list, and let its answer go out."""
        ranking = await self.rank(model, *arguments, **fields)
        self.record.status = 200
        self.record.begin_what_follows()
        return ranking

    async def settle(self) -> None:
        await until(lambda: not self.shadows._tasks)
        self.require_idle()

    @property
    def found(self) -> dict[str, Any]:
        found: dict[str, Any]
        [found] = report([self.shadows.state])["shadows"]
        return found

    @property
    def dropped(self) -> dict[str, int]:
        dropped: dict[str, int] = self.found["dropped"]
        return dropped


@pytest.fixture
async def service() -> AsyncIterator[Watched]:
    one = Watched(BESIDE)
    yield one
    await one.shadows.aclose()


async def test_list_is_ranked_by_the_other_once_its_answer_is_out(service: Watched) -> None:
    plain, best = await Service(settings()).rank("fast"), await Service(settings()).rank("best")
    counted = agreement.LISTS.labels("fast", "best", "11-100")
    before = counted._value.get()
    ranking = await service.rank("fast", top_n=3)
    assert (service.tokens["best"], ranking.results) == (0, plain.results[:3])
    service.record.status = 200
    service.record.begin_what_follows()
    assert service.tokens["best"] == 0  # nor does whoever says that it is out wait for it
    await service.settle()
    assert service.record.pairs == len(TEXTS)  # what the live request is counted by
    wanted = compare(order(plain), order(best))  # of all documents, though three were asked for
    assert wanted.overlap is not None
    assert counted._value.get() == before + 1
    assert service.found["lists"] == service.found["by_size"]["11-100"]["lists"] == 1
    assert service.found["first_place_differs"]["lists"] == int(wanted.flipped)
    assert service.found["rank_correlation"]["mean"] == pytest.approx(wanted.correlation, abs=1e-6)
    assert service.found["overlap_at_10"] == {"mean": wanted.overlap, "low": None, "high": None, "lists": 1}
    assert (service.found["of"], service.found["with"], service.dropped) == ("fast", "best", {})
    assert await service.rank("best") == await service.rank("best")
    assert (await service.rank("best")).cached_documents == len(TEXTS)  # what it scored, it leaves in the cache


async def test_answer_that_fails_or_does_not_go_out_has_no_shadow(service: Watched) -> None:
    await service.rank("fast")
    service.record.status = 499
    service.record.begin_what_follows()
    await asyncio.sleep(0)
    assert (service.found["lists"], service.tokens["best"], service.dropped) == (0, 0, {})


async def test_only_the_share_of_what_is_named_is_drawn() -> None:
    draws = iter([0.04, 0.06, 0.049, 0.9])
    service = Watched({"of": "fast", "with": "best"})
    service.shadows._chance = lambda: next(draws)
    for _ in range(4):
        await service.answered("fast")
        await service.settle()
    assert service.found["lists"] == 2
    await service.answered("best")  # draws none: there is none left to draw
    await service.answered("careful")
    await service.answered("fast", ["a document alone has no order"])
    assert service.record.after is None


async def test_other_may_be_a_cascade_an_instruction_or_the_clients_own_order() -> None:
    config = RerankerConfig.model_validate(
        {"models": MODELS, "default": "fast", "cascades": CASCADES}
        | {"shadows": [{"with": "careful", "share": 1}, {"with": "none", "share": 1}]}
        | {"cache": {"enabled": True}}
    )
    service = Service(config)
    shadows = service.models.shadows = Shadows(
        config, {one.name: one.ranker for one in service.models.all}, lambda: 0.0, lambda: 0.0
    )
    ranking, careful = await service.rank("fast"), await service.rank("careful")
    await service.rank("fast")
    service.record.status = 200
    service.record.begin_what_follows()
    await until(lambda: not shadows._tasks)
    for found, other in zip(report([shadows.state])["shadows"], (order(careful), list(range(60))), strict=True):
        wanted = compare(order(ranking), other)
        assert found["rank_correlation"]["mean"] == pytest.approx(wanted.correlation, abs=1e-6)
        assert found["overlap_at_10"]["mean"] == wanted.overlap
    told = Watched({"instruction": "which is best", "share": 1})
    ranking, other_ranking = await told.answered(), await told.rank("fast", instruction="which is best", cache="off")
    await told.settle()
    wanted = compare(order(ranking), order(other_ranking))
    assert told.found["rank_correlation"]["mean"] == pytest.approx(wanted.correlation, abs=1e-6)
    assert (told.found["of"], told.found["with"], told.found["instruction"]) == ("fast", "fast", "which is best")
    assert wanted.correlation < 1


async def test_ranks_as_the_model_does_however_small_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unhurried, "_LEAST_PART_TOKENS", 40)
    service = Watched(BESIDE)
    sizes: list[int] = []
    in_flight = service.by_name["best"].placement

    async def look() -> None:
        sizes.append(in_flight.shards_in_flight)
        assert service.by_name["best"].load()["lists"] == 0  # admission of live lists does not count it

    service.before_scoring["best"] = look
    texts = TEXTS + TEXTS[:5]  # equal scores: by their indices
    ranking = await service.answered("fast", texts)
    await service.settle()
    assert len(sizes) > 5
    best = await service.rank("best", texts)
    wanted = compare(order(ranking), order(best))
    assert service.found["rank_correlation"]["mean"] == pytest.approx(wanted.correlation, abs=1e-6)
    assert best.cached_documents == len(TEXTS)


async def test_live_list_never_waits_for_what_a_shadow_is_having_scored(service: Watched) -> None:
    """Not even one of the bulk class, which waits for others of its own."""
    go_on, waits = asyncio.Event(), [True]

    async def wait() -> None:
        if waits:
            waits.clear()
            await go_on.wait()

    service.before_scoring["best"] = wait
    await service.answered("fast")
    await until(lambda: not waits)
    live = await service.rank("best", priority="bulk")
    assert (live.coalesced_documents, live.missed_documents) == (0, len(TEXTS))
    go_on.set()
    await service.settle()


async def test_as_many_as_may_run_and_all_further_ones_are_dropped(service: Watched) -> None:
    go_on = asyncio.Event()
    service.before_scoring["best"] = go_on.wait
    for _ in range(3):
        await service.answered("fast")
    assert (len(service.shadows._tasks), service.dropped) == (1, {"others": 2})
    go_on.set()
    await service.settle()
    assert service.found["lists"] == 1


async def test_none_begins_where_live_work_waits_or_would_wait(service: Watched) -> None:
    best, fast = service.by_name["best"].placement, service.by_name["fast"].placement
    # Another ingress has work there, and there is no idle engine.
    best.note_load("best-1", ReplicaLoad(5_000, 1_000.0, {"another": 5_000}))
    await service.answered("fast")
    assert service.dropped == {"load": 1}
    best.note_load("best-1", ReplicaLoad(0, 1_000.0, {}))
    # More than a twentieth of `max_queue_s` waits for the engines of the live model, which has others.
    fast.note_load("fast-1", ReplicaLoad(5_000, 1_000.0, {"another": 5_000}))
    await service.answered("fast")
    assert service.dropped == {"load": 2}
    fast.note_load("fast-1", ReplicaLoad(0, 1_000.0, {}))
    service.processor = 0.6
    await service.answered("fast")
    assert service.dropped == {"load": 3}
    service.processor = 0.4
    await service.answered("fast")
    await service.settle()
    assert (service.found["lists"], service.dropped) == (1, {"load": 3})


async def test_one_under_way_is_called_off_when_live_work_comes(
    service: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unhurried, "_LOOK_S", 0.001)
    never = asyncio.Event()
    waits = [never.wait]

    async def wait() -> None:
        if waits:
            await waits.pop()()

    service.before_scoring["best"] = wait
    await service.answered("fast")
    await until(lambda: not waits)
    live = await service.rank("best")  # which does not wait for the other
    await service.settle()
    assert (service.found["lists"], service.dropped) == (0, {"load": 1})
    assert live.results == (await Service(settings()).rank("best")).results


async def test_idle_engine_beside_busy_ones_is_enough(service: Watched) -> None:
    best = service.by_name["best"]
    served = dict.fromkeys(("best-1", "best-2"), service.served["best"])
    best.placement.set_live(list(served), served)
    best.placement.note_load("best-1", ReplicaLoad(100, 1_000.0, {"another": 100}))
    await service.answered("fast")
    await service.settle()
    assert (service.found["lists"], service.dropped) == (1, {})


async def test_ingress_that_leaves_drops_what_there_is(service: Watched) -> None:
    service.before_scoring["best"] = asyncio.Event().wait
    await service.answered("fast")
    await until(lambda: service.by_name["best"].placement.shards_in_flight)
    service.models.leave()
    await service.shadows.aclose()
    service.require_idle()
    await service.answered("fast")
    assert (service.found["lists"], service.dropped) == (0, {"drain": 2})


async def test_errors_are_counted_and_reach_nobody(service: Watched, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise EngineFailedError

    async def bug() -> None:
        raise ZeroDivisionError

    for act in (fail, bug):
        service.before_scoring["best"] = act
        assert (await service.answered("fast")).results
        await service.settle()
    assert service.dropped == {"error": 2}
    assert "replica_lost" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert not any(text in caplog.text for text in (QUERY, TEXTS[0]))


async def test_what_cannot_be_compared_is_dropped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_MOST_CHARACTERS", 2_000)
    small = TEXTS[:9]
    service = Watched(BESIDE, limits={"timeout_s": 0.3}, admission={"max_queue_s": 0.3})
    await service.answered("fast")
    assert service.dropped == {"too_large": 1}
    service.stop("best")
    await service.answered("fast", small)
    assert service.dropped == {"too_large": 1, "no_engine": 1}
    service.start("best")
    await service.answered("fast", small)
    await service.settle()
    assert service.found["by_size"]["2-10"]["lists"] == 1
    service.cache.clear_memory()
    service.before_scoring["best"] = asyncio.Event().wait
    await service.answered("fast", small)
    await service.settle()
    assert service.dropped == {"too_large": 1, "no_engine": 1, "time": 1}

    def full(*_: Any, **__: Any) -> Any:
        raise OverloadedError(9.0, 4)

    [one] = service.shadows._shadows
    assert isinstance(one.ranker, unhurried.UnhurriedRanker)
    monkeypatch.setattr(one.ranker.admission, "permit", full)
    await service.answered("fast", small)
    await service.settle()
    assert service.dropped == {"too_large": 1, "no_engine": 1, "time": 1, "load": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotReadyError(), "no_engine"),
        (HandOverError(), "drain"),
        (RequestTooLargeError("documents", 2, 1, "tokens"), "too_large"),
    ],
)
async def test_what_ends_one_under_way_is_its_reason(service: Watched, error: Exception, reason: str) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    [one] = service.shadows._shadows
    assert isinstance(one.ranker, unhurried.UnhurriedRanker)
    one.ranker._by_one_model = fail  # type: ignore[method-assign]
    await service.answered("fast")
    await service.settle()
    assert service.dropped == {reason: 1}


async def test_other_may_be_an_adapter_and_so_may_whose_answers_are_compared() -> None:
    models = MODELS | {"best": {"engine": {"simulated": {"score_seed": 1}, "lora_adapters": {"tuned": "/a"}}}}
    service = Watched({"of": "best", "with": "tuned", "share": 1}, {"of": "tuned", "with": "best"}, models=models)
    best = await service.answered("best")
    await service.settle()
    tuned = await service.rank("tuned")
    found, other = report([service.shadows.state])["shadows"]
    assert found["rank_correlation"]["mean"] == pytest.approx(compare(order(best), order(tuned)).correlation, abs=1e-6)
    assert tuned.cached_documents == len(TEXTS)
    assert order(best) != order(tuned)
    await service.answered("tuned")
    await service.settle()
    found, other = report([service.shadows.state])["shadows"]
    assert (found["lists"], other["lists"]) == (1, 1)


async def test_instruction_is_for_models_that_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Watched(BESIDE)
    renderer = copy.copy(RENDERER)
    renderer._template = copy.copy(RENDERER._template)
    renderer._template.takes_instruction = False
    [one] = service.shadows._shadows
    assert isinstance(one.ranker, unhurried.UnhurriedRanker)
    one.ranker.renderer = service.by_name["best"].ranker.renderer = renderer
    await service.answered("fast", instruction="which is best")
    await service.settle()
    assert (service.found["lists"], service.dropped) == (1, {})
    rankers = {name: model.ranker for name, model in service.by_name.items()}
    with pytest.raises(ConfigurationError, match="best takes no instruction"):
        Shadows(settings(shadows=[BESIDE | {"instruction": "which is best"}]), rankers)


async def test_cascade_that_misses_its_second_stage_is_no_comparison() -> None:
    async def lost() -> None:
        raise EngineFailedError

    service = Watched({"with": "careful", "share": 1})
    service.before_scoring["best"] = lost
    await service.answered("fast")
    await service.settle()
    assert (service.found["lists"], service.dropped) == (0, {"partial": 1})


async def test_cascade_that_missed_its_second_stage_is_not_compared() -> None:
    service = Watched({"of": "careful", "with": "fast", "share": 1})
    await service.answered("careful")
    await service.settle()
    assert service.found["lists"] == 1
    service.stop("best")
    service.by_name["best"].placement.any_yet = False
    await service.answered("careful")
    assert service.dropped == {"partial": 1}


async def test_cache_of_each_key_stays_its_own() -> None:
    service = Watched(BESIDE, cache={"enabled": True, "namespace": "api_key"})
    await service.answered("fast", caller=Caller("one"))
    await service.settle()
    assert (await service.rank("best", caller=Caller("two"))).cached_documents == 0
    assert (await service.rank("best", caller=Caller("one"))).cached_documents == len(TEXTS)


async def test_sample_has_texts_up_to_its_size_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "sample.jsonl"
    service = Watched(BESIDE | {"sample": {"path": str(path), "share": 1, "max_bytes": 8_000}})
    assert (
        f"QUERIES AND DOCUMENTS of 100 % of the lists that best ranks beside fast ARE WRITTEN to {path}" in caplog.text
    )
    for _ in range(4):
        ranking = await service.answered("fast")
        await service.settle()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert 1 <= len(rows) < 4
    assert path.stat().st_size <= 8_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert (rows[0]["query"], rows[0]["documents"], rows[0]["of"]["order"]) == (QUERY, list(TEXTS), order(ranking))
    assert rows[0]["with"]["order"] == order(await service.rank("best"))
    assert caplog.text.count("is not written any more") == 1
    path.unlink()
    await service.answered("fast", ["𝄞", "日本"])
    await service.settle()
    assert json.loads(path.read_text(encoding="utf-8"))["documents"] == ["𝄞", "日本"]
    assert service.found["lists"] == 5
    path.unlink()
    path.mkdir()
    await service.answered("fast")
    await service.settle()
    assert (service.found["lists"], service.dropped) == (6, {})
    with pytest.raises(ConfigurationError, match="shadows: sample"):
        Watched(BESIDE | {"sample": {"path": str(path)}})


@pytest.mark.parametrize(
    ("shadows", "said"),
    [
        (
            [{"of": "other", "with": "best"}],
            "no model, adapter or cascade other (of of number 1). Known are: fast, best",
        ),
        ([{"with": "best"}, {"with": "other"}], "no model, adapter or cascade other (with of number 2)"),
        ([{"of": "none", "with": "best"}], "no model, adapter or cascade none (of of number 1)"),
        ([{}], "with: is the model itself"),
        ([{"of": "best", "with": "best"}], "with: is the model itself"),
        ([{"with": "fast"}], "number 1 compares fast with itself"),
        ([{"with": "none", "instruction": "a"}], "nothing ranks with it"),
        ([{"with": "best", "instruction": "@nobodys"}], "shadows.instruction: no instruction of this name"),
        ([{"with": "best"}, {"of": "fast", "with": "best", "share": 1}], "two are of fast with the same"),
        ([{"with": "best", "share": 0}], "greater than 0"),
        ([{"with": "best", "sample": {"share": 1}}], "Field required"),
        ([{"with": f"m{number}"} for number in range(5)], "at most 4 items"),
    ],
)
def test_shadows_of_what_there_is_not_are_refused(shadows: list[Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        settings(shadows=shadows)
    assert said in str(raised.value)


def test_shadow_of_an_only_model_needs_no_name() -> None:
    for one in ({"with": "none"}, {"instruction": "@medical"}):
        assert RerankerConfig.model_validate({"shadows": [one]}).each_model()
    with pytest.raises(ValidationError, match="leave it out for the only model"):
        RerankerConfig.model_validate({"shadows": [{"of": "demo", "with": "none"}]})


def test_check_says_the_line_of_a_wrong_one() -> None:
    text = """\
proxy_location: Disabled
http_options: {host: 127.0.0.1}
applications:
  - name: reranker
    import_path: deployments.app:build_app
    args:
      models: {fast: {}, best: {}}
      default: fast
      shadows:
        - {of: fast, with: bset}
    deployments:
      - {name: Ingress, graceful_shutdown_timeout_s: 125}
"""
    [finding] = checks.check(text).findings
    said = "there is no model, adapter or cascade bset (with of number 1). Known are: fast, best"
    assert finding == f"9: applications[0].args.shadows: {said}"
    assert checks.check(text.replace("bset", "best")).findings == ()


def test_change_of_a_shadow_restarts_no_engine() -> None:
    alone = {name: one.shadows for name, one in settings(shadows=[BESIDE]).each_model().items()}
    assert alone == {"fast": (), "best": ()}


async def test_request_that_is_not_drawn_has_nothing_to_begin() -> None:
    service = Watched()
    await service.answered("fast")
    assert service.record.after is None
    RequestRecord().begin_what_follows()


def test_share_of_a_core_is_of_the_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0, 1.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[1])
    monkeypatch.setattr(shadow, "time", clock)
    processor = shadow.Processor()
    shares = []
    for now[0], now[1] in ((10.1, 1.1), (10.5, 1.4), (10.6, 9.0), (12.5, 1.9)):
        shares.append(round(processor.share(), 3))
    assert shares == [0.0, 0.8, 0.8, 0.25]
