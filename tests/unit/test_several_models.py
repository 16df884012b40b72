"""Several models in one service: which one a request gets, that none is taken for another, and how each is doing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from deployments import checks, engine_deployments
from deployments.app import build_app
from deployments.cli.config import load_config, startable_config
from deployments.cli.run import settled
from reranker.config import RerankerConfig
from reranker.errors import (
    ConfigurationError,
    ModelFailedError,
    ModelNotReadyError,
    NotReadyError,
    OverloadedError,
    StartFailedError,
    UnknownModelError,
)
from reranker.types import ANONYMOUS
from tests.unit.doors import BODY, WordBackend, door, visitor
from tests.unit.several import CASCADES, MODELS, TEXTS, Service, order, scores, settings


def test_default_stands_for_the_only_one_where_one_is_needed() -> None:
    config = settings(default="best")
    assert config.names == ("best", "fast")
    assert config.engine == config.models["best"].engine
    alone = config.each_model()
    assert [(name, one.engine, one.models, one.cascades) for name, one in alone.items()] == [
        ("best", config.models["best"].engine, {}, {}),
        ("fast", config.models["fast"].engine, {}, {}),
    ]


def test_one_model_alone_has_no_name_and_the_settings_as_they_are() -> None:
    config = RerankerConfig.model_validate({"engine": {"cpus": 2}})
    assert config.each_model() == {"": config}
    assert list(engine_deployments(config)) == ["EngineReplica"]


def test_default_has_the_deployment_of_an_only_one() -> None:
    assert list(engine_deployments(settings())) == ["EngineReplica", "EngineReplica-best"]
    assert list(engine_deployments(settings(default="best"))) == ["EngineReplica", "EngineReplica-fast"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": {"name": "demo"}}, "model: is given beside models"),
        ({"engine": {}}, "engine: is given beside models"),
        ({"default": "other"}, "default: models has no other"),
        ({"default": None}, "default: is needed with several models"),
        ({"cascades": {"careful": {"first": "fast", "then": "other"}}}, "cascades.careful.then: models has no other"),
        ({"cascades": {"best": {"first": "fast", "then": "best"}}}, "best names several"),
        ({"cascades": {"careful": {"first": "fast", "then": "fast"}}}, "then: is the same model as first"),
        ({"cascades": {"careful": {"first": "fast", "then": "best", "keep": 1.0}}}, "less than 1"),
        ({"cascades": {"careful": {"first": "fast", "then": "best", "keep": 0}}}, "greater than or equal to 1"),
        ({"models": {"a/b": {}}, "cascades": {}, "default": None}, "should match pattern"),
        ({"models": MODELS | {"wide": {"max_pair_tokens": 70_000}}}, "models.wide.max_pair_tokens must not exceed"),
        (
            {"models": {"fast": {"engine": {"lora_adapters": {"best": "/a"}}}, "best": {}}, "cascades": {}},
            "best names several",
        ),
        (
            {"search": {"indexes": {"a": {"path": "/a", "instruction": "@own"}}}},
            "search.indexes.a.instruction",
        ),
    ],
)
def test_names_that_lead_nowhere_or_to_two_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**changed)


async def test_request_gets_the_model_it_names_with_the_scores_it_has_alone() -> None:
    """With a cache that all share: a score of one is never served for another."""
    together = Service(settings())
    for name in ("fast", "best"):
        alone = Service(settings(models={name: MODELS[name]}, cascades={}, default=None))
        wanted = await alone.rank()
        for cached in (0, len(TEXTS)):
            ranking = await together.rank(name)
            assert (scores(ranking), order(ranking)) == (scores(wanted), order(wanted))
            assert (ranking.model, ranking.cached_documents, together.record.model) == (name, cached, name)
    assert order(await together.rank("fast")) != order(await together.rank("best"))
    together.require_idle()


async def test_both_are_ranked_at_once() -> None:
    service = Service(settings())
    arrived: list[str] = []

    def act(name: str) -> Any:
        async def wait() -> None:
            arrived.append(name)
            while len(set(arrived)) < 2:  # noqa: ASYNC110 - a few turns of the loop
                await asyncio.sleep(0.001)

        return wait

    service.before_scoring = {name: act(name) for name in ("fast", "best")}
    first, second = await asyncio.gather(service.rank("fast"), service.rank("best"))
    assert (first.model, second.model) == ("fast", "best")


@pytest.mark.parametrize("wanted", [None, "", "gpt-4", "FAST"])
async def test_unknown_name_gets_the_default(wanted: str | None) -> None:
    service = Service(settings(default="best"))
    assert (await service.rank(wanted)).model == "best"


async def test_strict_service_refuses_an_unknown_name_and_gives_the_known() -> None:
    service = Service(settings(access={"strict_models": True}))
    assert (await service.rank(None)).model == "fast"
    with pytest.raises(UnknownModelError, match="known are fast, best, careful") as raised:
        await service.rank("gpt-4")
    assert raised.value.status_code == 404
    assert "gpt" not in str(raised.value)
    alone = Service(
        settings(models={"only": MODELS["fast"]}, cascades={}, default="only", access={"strict_models": True})
    )
    with pytest.raises(UnknownModelError):
        await alone.rank("gpt-4")


async def test_adapters_are_of_one_model() -> None:
    models = MODELS | {"best": MODELS["best"] | {"engine": MODELS["best"]["engine"] | {"lora_adapters": {"law": "/a"}}}}
    service = Service(settings(models=models))
    ranking = await service.rank("law")
    assert (ranking.model, service.record.model) == ("law", "best")
    assert scores(ranking) != scores(await service.rank("best"))
    assert set(service.tokens) == {"best"}
    assert service.models.offers["law"].parent == "best"


async def test_model_without_engines_says_so_and_leaves_the_others_alone() -> None:
    service = Service(settings())
    service.stop("best")
    service.by_name["best"].placement.any_yet = False
    service.failed.add("best")
    with pytest.raises(ModelFailedError, match=r"no engine of best could be started; .* Ready are: fast"):
        await service.rank("best")
    assert await service.models.states() == {
        "fast": {"status": "ok", "replicas": 1},
        "best": {"status": "failed", "replicas": 0},
    }
    assert await service.models.live_replicas() == 1
    service.failed.clear()
    with pytest.raises(ModelNotReadyError, match="no engine of best is ready"):
        await service.rank("best")
    assert (await service.models.states())["best"] == {"status": "starting", "replicas": 0}
    assert (await service.rank("fast")).model == "fast"
    service.require_idle()


async def test_service_is_ready_when_its_default_is() -> None:
    service = Service(settings())
    service.stop("fast")
    with pytest.raises(NotReadyError):
        await service.models.live_replicas()
    service.failed |= {"fast", "best"}
    with pytest.raises(StartFailedError):
        await service.models.live_replicas()


async def test_full_queue_of_one_model_refuses_no_list_of_the_other() -> None:
    service = Service(settings(admission={"max_tokens_in_flight": 1_000}))
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await gate.wait()

    service.before_scoring["best"] = wait
    held = asyncio.ensure_future(service.rank("best", ["capital " * 200 + text for text in TEXTS[:4]]))
    await arrived.wait()
    with pytest.raises(OverloadedError):
        await service.rank("best")
    service.models.require_any_room(10_000_000)  # the other may be meant
    assert (await service.rank("fast")).model == "fast"
    load = service.by_name["best"].load()
    assert (load["lists"], service.by_name["fast"].load()["lists"]) == (1, 0)
    gate.set()
    await held
    service.require_idle()


async def test_load_adds_up_and_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(settings())
    service.stop("best")

    async def loads() -> dict[str, Any]:
        from reranker.types import ReplicaLoad

        return {"fast-1": ReplicaLoad(7)}

    monkeypatch.setattr(service.by_name["fast"].fleet, "replica_loads", loads)
    load = await service.models.load()
    nothing = {"lists": 0, "tokens": 0, "shards": 0}
    assert load["models"] == {"fast": nothing, "best": nothing}
    assert [(one["name"], one["model"], one["pending_tokens"]) for one in load["replicas"]] == [("fast-1", "fast", 7)]


async def test_routes_name_all_models_and_say_how_each_is() -> None:
    backend = WordBackend()
    backend.states = {"words": {"status": "ok", "replicas": 1}, "best": {"status": "failed", "replicas": 0}}
    backend.cascades = {"careful": ("words", "best")}
    async with visitor(door(backend)) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        health = (await client.get("/health")).json()
        careful = (await client.get("/v1/models/careful")).json()
        misspelt = await client.post("/v1/rerank", json=BODY | {"model": "bset"})
    assert [one["id"] for one in cards] == ["words", "best", "careful"]
    assert (careful["cascade"], health["models"]) == (["words", "best"], backend.states)
    assert misspelt.headers["x-reranker-ignored"] == "model"


def _written(folder: Path, **args: Any) -> Path:
    application = {"name": "reranker", "import_path": "deployments.app:build_app", "args": args}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"proxy_location": "Disabled", "applications": [application]}))
    return file


def test_commands_take_one_of_them_by_its_name(tmp_path: Path) -> None:
    file = _written(tmp_path, models=MODELS, cascades=CASCADES, default="best")
    for name, wanted in ((None, "best"), ("fast", "fast")):
        config = load_config(file, name)
        assert (config.engine, config.models) == (settings().models[wanted].engine, {})
    assert load_config(file, "some/model").model.name == "some/model"
    with pytest.raises(ConfigurationError, match="careful is a cascade"):
        load_config(file, "careful")
    with pytest.raises(ConfigurationError, match="several models, best, fast"):
        startable_config(file, model="some/model", port=0)


def test_simulated_service_simulates_every_model(tmp_path: Path) -> None:
    file = _written(tmp_path, models={"fast": {}, "best": {"engine": {"cpus": 2}}}, default="fast")
    [application] = startable_config(file, simulated=True, host="127.0.0.1", port=0)["applications"]
    config = RerankerConfig.model_validate(application["args"])
    assert [one.engine.simulated is not None for one in config.each_model().values()] == [True, True]


_CHECKED = """\
proxy_location: Disabled
http_options: {host: 127.0.0.1}
applications:
  - name: reranker
    import_path: deployments.app:build_app
    args:
      models: {fast: {}, best: {engine: {tensor_parallel_size: 2}}}
      default: fast
    deployments:
      - {name: Ingress, graceful_shutdown_timeout_s: 125}
      - {name: EngineReplica, num_replicas: 3}
      - {name: EngineReplica-best, num_replicas: 2}
"""


def test_check_knows_the_deployments_of_all_models_and_adds_up_their_gpus() -> None:
    report = checks.check(_CHECKED)
    assert report.findings == ()
    assert report.gpus == "the engines of 2 models take 7 to 7 GPUs, unless on the CPU"
    [finding] = checks.check(_CHECKED.replace("EngineReplica-best", "EngineReplica-bset")).findings
    assert "no deployment EngineReplica-bset. Ours are Ingress, EngineReplica and EngineReplica-best" in finding
    [finding] = checks.check(_CHECKED.replace("tensor_parallel_size: 2", "quantization: fp8")).findings
    assert "args.models.best.engine.quantization: vLLM has deprecated this name" in finding


@pytest.mark.parametrize(
    ("fast", "best", "over", "kind"),
    [
        ("HEALTHY", "DEPLOY_FAILED", True, "without"),
        ("UPDATING", "DEPLOY_FAILED", False, ""),
        ("DEPLOY_FAILED", "HEALTHY", True, "failed"),
    ],
)
def test_start_goes_on_without_a_model_that_is_not_the_default(fast: str, best: str, over: bool, kind: str) -> None:
    deployments = {
        name: DeploymentStatusOverview(
            DeploymentStatus(state), DeploymentStatusTrigger.UNSPECIFIED, {}, "reranker.errors.StartupCheckError: bad"
        )
        for name, state in (("Ingress", "HEALTHY"), ("EngineReplica", fast), ("EngineReplica-best", best))
    }
    overview = ApplicationStatusOverview(ApplicationStatus.DEPLOY_FAILED, "it failed", 0.0, deployments)
    reports: list[tuple[str, str]] = []
    assert settled({"reranker": overview}, set(), lambda kind, text: reports.append((kind, text))) == over
    assert [kind for kind, _ in reports] == ([kind] if kind else [])
    if kind == "without":
        assert reports[0][1].startswith("the model best: bad. `reranker check")


async def test_each_caller_is_one_to_every_model() -> None:
    service = Service(settings(cache={"enabled": True, "namespace": "api_key"}))
    await service.rank("fast", caller=ANONYMOUS)
    assert (await service.rank("fast")).cached_documents == len(TEXTS)


def test_application_has_an_engine_deployment_for_each_model_and_a_change_of_one_changes_no_other() -> None:
    def deployments(**best: Any) -> dict[str, Any]:
        """What Serve would start, by deployment; on the CPU, as otherwise Ray is asked for GPUs."""
        engine = {"device": "cpu", "cpus": 1}
        models = {"fast": {"engine": engine}, "best": {"engine": engine | best}}
        args: dict[str, object] = {"default": "fast", "models": models}
        _, default, _, other = build_app(args)._bound_deployment.init_args
        return {one._bound_deployment.name: one._bound_deployment.init_args for one in (default, other)}

    before, after = deployments(), deployments(cpus=2)
    assert list(before) == ["EngineReplica", "EngineReplica-best"]
    assert before["EngineReplica"] == after["EngineReplica"]
    assert before["EngineReplica-best"] != after["EngineReplica-best"]
