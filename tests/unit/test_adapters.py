"""A request's `model` chooses an adapter: what it is scored with, remembered as, answered as, and called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deployments.cli.main import main
from deployments.cli.rankers import LocalFleet
from reranker.cache.keys import ListTerms, document_keys
from reranker.client import RerankerClient
from reranker.config import EngineConfig, ModelConfig, RerankerConfig
from reranker.dialects import DIALECTS
from reranker.dialects.parse import parse
from reranker.engine import startup_check
from reranker.engine.simulated import simulated_engine, simulated_logit
from reranker.engine.startup_check import require_sane
from reranker.errors import StartupCheckError, UnreachableError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CUT_THE_END, PromptRenderer
from reranker.offline import Row
from reranker.offline.scorer import PartitionScorer, for_throughput
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, FloatArray, RankRequest, Shard
from tests.unit.doors import BODY, WordBackend, door, visitor
from tests.unit.fleets import Call, FakeFleet, by_length
from tests.unit.rankers import rank_once
from tests.unit.steppers import QUICK
from tests.unit.test_score_command import FakeService, service  # noqa: F401 - a fixture
from tests.unit.test_startup_check import FakeEngine

CONFIG = RerankerConfig(
    model=ModelConfig(max_pair_tokens=256), engine=EngineConfig(lora_adapters={"medical": "/m", "team/legal": "/l"})
)
RENDERER = PromptRenderer(DEMO_MODEL, 256, CONFIG.model.instruction)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"lora_adapter": "/a", "lora_adapters": {"a": "/a"}}, "give one of them"),
        ({"lora_adapters": {"demo": "/a"}}, "the model's own name"),
        ({"lora_adapters": {"a b": "/a"}}, "String should match pattern"),
        ({"lora_adapters": {"": "/a"}}, "String should match pattern"),
    ],
)
def test_adapters_that_could_not_be_told_apart_are_refused(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RerankerConfig.model_validate({"engine": engine})


@pytest.mark.parametrize(
    ("model", "adapter"), [("medical", "medical"), ("team/legal", "team/legal"), ("rerank-v3.5", ""), (None, "")]
)
async def test_shards_carry_the_adapter_that_the_request_names(model: str | None, adapter: str) -> None:
    seen: list[str] = []

    async def act(call: Call) -> Any:
        seen.append(call.shard.adapter)
        return await by_length(call)

    request = RankRequest("q", tuple("word " * 90 + str(i) for i in range(60)), model=model)
    await rank_once(request, FakeFleet(2, act), CONFIG)
    assert len(seen) > 1
    assert set(seen) == {adapter}


async def test_simulated_engine_has_other_scores_for_each_adapter_and_batch_has_the_pipelines() -> None:
    config = for_throughput(CONFIG)
    engine = simulated_engine(config.engine, QUICK)
    try:
        rendered = RENDERER.render("q", ["a", "b"])
        for name in ("", "medical"):
            shard = rendered.for_adapter(name).prompts.select([1])
            prompt = [*shard.head, *shard.tokens, *shard.tail]
            assert await engine.score(shard) == [simulated_logit(prompt, name)]
            rows = [Row(i, (), "q", text) for i, text in enumerate("ab")]
            [_, row], _ = await PartitionScorer(engine, RENDERER, config, None, name).score(iter(rows), str)
            assert row.log_odds == simulated_logit(prompt, name)
            ranker = Ranker(config, RENDERER, LocalFleet(engine))
            [ranking] = await ranker.rank([RankRequest("q", ("b",), model=name or None)], ANONYMOUS, RequestRecord())
            assert ranking.results[0].log_odds == row.log_odds
        assert simulated_logit(prompt, "medical") != simulated_logit(prompt)
    finally:
        engine.shutdown()


def test_scores_of_an_adapter_are_remembered_as_its_own() -> None:
    terms = ListTerms("m", "p", "", "i", "q", CUT_THE_END)
    keys = {document_keys(replace(terms, adapter=name), ["d"])[0] for name in ("", "medical", "team/legal")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("asked", "answered", "ignored"),
    [("medical", "medical", None), ("words", "words", None), (None, "words", None), ("medicine", "words", "model")],
)
async def test_answer_names_what_scored_and_a_name_that_is_none_is_said_to_be_ignored(
    asked: str | None, answered: str, ignored: str | None
) -> None:
    backend = WordBackend()
    backend.adapters = ("medical",)
    async with visitor(door(backend)) as client:
        response = await client.post("/v1/rerank", json=BODY | {"model": asked})
        assert response.json()["model"] == answered
        assert response.headers.get("x-reranker-ignored") == ignored
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(one["id"], one.get("parent")) for one in listed] == [("words", None), ("medical", "words")]
        assert (await client.get("/v1/models/medical")).json() == listed[1]
        assert (await client.get("/v1/models/medicine")).status_code == 404


@pytest.mark.parametrize(("body", "answered"), [({}, "team/legal"), ({"model": "medical"}, "medical")])
async def test_path_can_name_an_adapter_and_the_body_counts(body: dict[str, Any], answered: str) -> None:
    backend = WordBackend()
    backend.adapters = ("medical", "team/legal")
    async with visitor(door(backend)) as client:
        sent = {"queries": ["q"], "documents": ["a"], **body}
        response = await client.post("/v1/inference/team%2Flegal", json=sent)
    assert (response.status_code, backend.lists[0].model) == (200, answered)


async def test_without_adapters_any_name_is_taken_as_ever() -> None:
    async with visitor(door(WordBackend())) as client:
        response = await client.post("/v1/rerank", json=BODY | {"model": "rerank-english-v3.0"})
        assert response.json()["model"] == "words"
        assert "x-reranker-ignored" not in response.headers


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_can_name_an_adapter(dialect: Any) -> None:
    body = next(iter(dialect.examples.values())) | {"model": "medical"}
    asked = parse(json.dumps(body).encode(), dialect, CONFIG.limits)
    assert {one.model for one in asked.lists} == {"medical"}


def test_start_up_check_names_the_adapter_that_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_check, "_LONG_DOCUMENT", "water " * 9_000)

    class Engine(FakeEngine):
        async def score(self, shard: Shard) -> FloatArray:
            logits = await super().score(shard)
            return np.zeros_like(logits) if shard.adapter == "broken" else logits

    renderer = PromptRenderer(DEMO_MODEL, 8_192, CONFIG.model.instruction)
    require_sane(Engine(), renderer, 0.01, ["fine"])
    with pytest.raises(StartupCheckError, match=r"'spread' .*exactly 0, with adapter broken"):
        require_sane(Engine(), renderer, 0.01, ["fine", "broken"])


def test_client_names_the_model_and_lists_those_there_are(service: FakeService) -> None:  # noqa: F811 - the fixture
    with RerankerClient(service.url, model="medical") as client:
        client.rerank("q", ["d"])
        assert service.requests == [{"query": "q", "documents": ["d"], "model": "medical"}]
        assert client.models() == ["demo", "medical"]
        service.models = {}
        with pytest.raises(UnreachableError, match="no list of models"):
            client.models()


def test_command_refuses_an_adapter_that_is_not_there(
    service: FakeService,  # noqa: F811 - the fixture
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["score", "--query", "q", "--document", "d"]
    assert main([*arguments, "--url", service.url, "--model", "medicine"]) == 1
    assert "no model 'medicine'; it has demo, medical" in capsys.readouterr().err
    assert main([*arguments, "--url", service.url, "--model", "medical"]) == 0
    assert service.requests[0]["model"] == "medical"
    assert main([*arguments, "--local", "--adapter", "medicine"]) == 1
    assert "engine.lora_adapters has no 'medicine'; it has none" in capsys.readouterr().err
