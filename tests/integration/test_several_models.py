"""Two real models in one service, and a third whose weights are broken: each answers for itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker.ranking.agreement import compare
from tests.broken_models import broken_copy, swap_yes_and_no
from tests.integration.conftest import ROOT, START_TIMEOUT_S, TLS, Service, configuration, deployment, started
from tests.integration.traffic import wait_until
from tests.models import save_hospital_demo
from tools.demo_model.adapter import WORDS, write_judged

QUERY = "Which patient has kidney trouble?"
DOCUMENTS = [f"Seen on Monday, {word} problem noted." for pair in WORDS.items() for word in pair]
ENGINE = {"cpus": 0.5}  # three of them on two cores


def _configure(folder: Path) -> dict[str, Any]:
    save_hospital_demo(folder / "hospital")
    broken = broken_copy(folder, swap_yes_and_no)
    models = {"plain": "demo", "hospital": str(folder / "hospital"), "broken": str(broken)}
    args = {
        "default": "plain",
        "models": {name: {"name": model, "engine": ENGINE} for name, model in models.items()},
        "cascades": {"careful": {"first": "plain", "then": "hospital", "keep": 16}},
        "shadows": [{"with": "hospital", "share": 1}],
    }
    config = configuration(1, args)
    engine = deployment(config, "EngineReplica")
    config["applications"][0]["deployments"] += [
        engine | {"name": f"EngineReplica-{name}"} for name in ("hospital", "broken")
    ]
    return config


def _scores(answer: dict[str, Any]) -> dict[int, float]:
    return {one["index"]: one["relevance_score"] for one in answer["results"]}


def _states(service: Service) -> dict[str, str]:
    answer = httpx.get(f"{service.url}/health", timeout=30, verify=TLS).json()
    return {name: one["status"] for name, one in answer["models"].items()}


def _wait_for(service: Service, **wanted: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not wanted.items() <= _states(service).items():
        assert time.monotonic() < deadline, (_states(service), service.log.read_text()[-4000:])
        time.sleep(0.2)


def _command(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "reranker"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _alone(folder: Path, model: str) -> dict[int, float]:
    """The model's scores by itself, in a process of its own."""
    file = folder / f"{model}.txt"
    file.write_text("\n".join(DOCUMENTS))
    local = ["--local", "--config", str(folder / "serve_config.yaml"), "--model", model]
    told = _command("score", *local, "--query", QUERY, "--json", str(file))
    return {one["index"]: one["relevance_score"] for one in map(json.loads, told.splitlines())}


def _compared(service: Service, folder: Path) -> dict[str, Any]:
    """What `reranker eval` says of the cascade beside each of its models, on questions in a hospital's words."""
    write_judged(folder)
    models = [part for name in ("careful", "hospital", "plain") for part in ("--model", name)]
    [told] = json.loads(_command("eval", str(folder), "--url", service.url, *models, "--json"))["sets"]
    return {one["baseline"]: (one["verdict"], one["metrics"]["nDCG@10"]["difference"]) for one in told["against"]}


@pytest.mark.slow
def test_models_of_one_service_neither_mix_nor_fall_together(tmp_path: Path) -> None:
    with started(_configure(tmp_path), tmp_path) as service:
        _wait_for(service, hospital="ok")
        with ThreadPoolExecutor(4) as clients:
            asked = ["plain", "hospital"] * 4
            answers = list(clients.map(lambda name: service.rerank(QUERY, DOCUMENTS, model=name), asked))
        found = {name: _scores(answer) for name, answer in zip(asked, answers, strict=True)}
        for name, answer in zip(asked, answers, strict=True):  # the first of each was scored, the others are cached
            assert (answer["model"], _scores(answer)) == (name, found[name])
        assert list(found["plain"]) != list(found["hospital"])

        def shadowed() -> dict[str, Any] | None:
            service.rerank(QUERY, DOCUMENTS, model="plain")
            [shadow] = httpx.get(f"{service.url}/v1/compare", timeout=30, verify=TLS).json()["shadows"]
            return shadow if shadow["lists"] else None

        wait_until(shadowed)
        shadow, wanted = shadowed(), compare(list(found["plain"]), list(found["hospital"]))
        assert shadow is not None
        assert shadow["rank_correlation"]["mean"] == pytest.approx(wanted.correlation, abs=1e-5)

        careful = service.rerank(QUERY, DOCUMENTS, model="careful")
        assert careful["stages"] == {
            "first": "plain",
            "then": "hospital",
            "ranked_again": sorted(list(found["plain"])[:16]),
        }
        again = {index: found["hospital"][index] for index in careful["stages"]["ranked_again"]}
        assert _scores(careful).items() >= again.items()

        compared = _compared(service, tmp_path / "judged")  # ten candidates: all of them reach the second model
        assert compared["hospital"] == ("cannot be told", 0)
        assert (compared["plain"][0], compared["plain"][1] > 0.1) == ("better", True)

        with ThreadPoolExecutor(2) as processes:  # while Serve tries the broken one again and again
            names = ("plain", "hospital")
            alone = dict(zip(names, processes.map(lambda name: _alone(tmp_path, name), names), strict=True))
        assert alone == found
        _wait_for(service, broken="failed")
        refused = service.post(QUERY, DOCUMENTS, model="broken")
        assert (refused.status_code, refused.json()["error_type"]) == (503, "model_failed")
        assert "Ready are: plain, hospital" in refused.json()["message"]
        assert "fails the start-up check 'separation'" in service.log.read_text()
        wait_until(lambda: "goes on without the model broken: " in service.log.read_text())

        [killed] = service.replica_processes("EngineReplica-hospital")
        killed.kill()
        killed.wait(10)
        for number in range(20):
            assert service.rerank(QUERY, [f"{text} {number}" for text in DOCUMENTS], model="plain")["model"] == "plain"
        _wait_for(service, hospital="ok")
        assert _scores(service.rerank(QUERY, DOCUMENTS, model="hospital", cache="off")) == found["hospital"]
        service.wait_until_idle()
