"""`reranker config check` finds what Ray takes without a word, says where it is, and what to do."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.checks import check
from deployments.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())

Edit = tuple[str, object]
REMOVED = object()


def _edited(*edits: Edit) -> dict[str, Any]:
    """serve_config.yaml with values set at places; `ingress`, `engine` are the deployments, `ui` the playground."""
    config = copy.deepcopy(CONFIG)
    application, ui = config["applications"]
    ingress, engine = application["deployments"]
    starts = {"app": application, "ingress": ingress, "engine": engine, "ui": ui}
    for place, value in edits:
        *steps, last = place.split(".")
        part: Any = starts.get(steps[0], config) if steps else config
        for step in steps[1:] if steps and steps[0] in starts else steps:
            part = part.setdefault(step, {})
        if value is REMOVED:
            del part[last]
        else:
            part[last] = value
    return config


def _found(*edits: Edit) -> list[str]:
    return list(check(yaml.safe_dump(_edited(*edits))).findings)


def _policy(**settings: float) -> Edit:
    policy = {"policy_function": "deployments.autoscaling:QueueTime", "policy_kwargs": settings}
    times = {"metrics_interval_s": 1, "look_back_period_s": 5, "upscale_delay_s": 0, "downscale_delay_s": 0}
    return "engine.autoscaling_config", {"max_replicas": 4, "policy": policy} | times


OPTIONS = {
    "num_cpus": 1,
    "num_gpus": 1,
    "runtime_env": {
        "env_vars": {
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE": "0",
        }
    },
}
MISTAKES: dict[str, tuple[list[Edit], str, str]] = {
    "misspelt at the top": ([("http_option", {})], r"http_option: unknown key", "Did you mean http_options"),
    "misspelt HTTP option": ([("http_options.request_timeout", 5)], "request_timeout: unknown", "request_timeout_s"),
    "misspelt deployment option": ([("ingress.max_ongoing_request", 5)], "unknown key", "max_ongoing_requests"),
    "misspelt scaling option": ([("engine.autoscaling_config.min_replica", 1)], "unknown key", "min_replicas"),
    "misspelt argument": ([("app.args.model.max_pair_token", 5)], "unknown key", "max_pair_tokens"),
    "misspelt key of an index": (
        [("app.args.search", {"indexes": {"a": {"path": "/a", "candidate": 5}}})],
        "search.indexes.a.candidate: unknown key",
        "candidates",
    ),
    "index without the model of its vectors": (
        [("app.args.search", {"indexes": {"a": {"path": "/a", "first_stage": "dense"}}})],
        "needs embedding.model",
        "change one of them",
    ),
    "misspelt actor option": ([("engine.ray_actor_options", OPTIONS | {"num_gpu": 1})], "unknown key", "num_gpus"),
    "misspelt router option": (
        [("engine.request_router_config", {"router_class": "x"})],
        "unknown key",
        "request_router_class",
    ),
    "key in the wrong place": ([("app.max_ongoing_requests", 5)], "unknown key", "belongs into `deployments`"),
    "argument beside args": ([("app.planning", {})], "unknown key", "belongs into `args`"),
    "misspelt deployment": ([("engine.name", "Engine")], "no deployment Engine", "EngineReplica"),
    "deployment twice": ([("engine.name", "Ingress")], "Ingress is listed twice", "Join"),
    "misspelt import path": (
        [("app.import_path", "deployments.app:build_ap")],
        "deployments.app has no build_ap",
        "Did you mean deployments.app:build_app",
    ),
    "module that is not there": ([("app.import_path", "deployment.app:build_app")], "cannot be imported", "Ours is"),
    "import path without a name": ([("app.import_path", "deployments")], "invalid import path", "meaning"),
    "wrong type": ([("engine.autoscaling_config.min_replicas", "one")], "valid integer", "minimum number of replicas"),
    "wrong argument": ([("app.args.engine", {"device": "tpu"})], "'auto', 'cpu' or 'cuda'", "one GPU per replica"),
    "max below min": ([("engine.autoscaling_config.min_replicas", 5)], r"max_replicas \(2\) must be", "go together"),
    "initial above max": ([("engine.autoscaling_config.initial_replicas", 9)], "initial_replicas", "go together"),
    "unknown policy": (
        [("engine.autoscaling_config.policy", {"policy_function": "deployments.nothing:Policy"})],
        "cannot be imported",
        "module:name",
    ),
    "scaled by what Serve does not see": (
        [("engine.autoscaling_config", {"max_replicas": 4, "target_ongoing_requests": 2})],
        "never scales up",
        "deployments.autoscaling:QueueTime",
    ),
    "ingress scaled by it": (
        [("ingress.num_replicas", REMOVED), ("ingress.autoscaling_config", {"max_replicas": 4})],
        "never scales up",
        "QueueTime",
    ),
    "looks back too short": ([("engine.autoscaling_config.look_back_period_s", 1)], "every 1 s", "longer"),
    "fixed and scaled": ([("engine.num_replicas", 3)], "not allowed", "go together"),
    "no replicas": ([("ingress.num_replicas", 0)], "greater than 0", "number of processes"),
    "no queue": ([("ingress.max_queued_requests", 0)], "max_queued_requests must be", "go together"),
    "a queue that is not there": ([("engine.max_queued_requests", 100)], "no list passes", "args.admission"),
    "the ingress's either": ([("ingress.max_queued_requests", 100)], "no list passes", "args.admission"),
    "requests that nobody counts": ([("ingress.max_ongoing_requests", 50)], "no list passes", "args.admission"),
    "prefix of the proxy's own": ([("http_options.root_path", "/a")], "which is not there", "in a gateway"),
    "GPUs lost": ([("engine.ray_actor_options", OPTIONS | {"num_gpus": 0})], "no GPU is left", "num_gpus: 1"),
    "share that does not fit": (
        [("engine.ray_actor_options", OPTIONS | {"num_gpus": 0.5})],
        "0.5 of a GPU, and takes 0.9",
        "gpu_memory_utilization below 0.5",
    ),
    "share that wastes": ([("engine.ray_actor_options", OPTIONS | {"num_gpus": 0.6})], "rest is lost", "at most 0.5"),
    "one and a half GPUs": ([("engine.ray_actor_options", OPTIONS | {"num_gpus": 1.5})], "whole ones", "whole number"),
    "GPUs for another model": (
        [("engine.ray_actor_options", OPTIONS | {"num_gpus": 2})],
        "spread over 1",
        "same number",
    ),
    "GPU for the CPU": (
        [("engine.ray_actor_options", OPTIONS), ("app.args.engine", {"device": "cpu"})],
        "stand idle",
        "Remove num_gpus",
    ),
    "options that replace ours": ([("ingress.ray_actor_options", {"num_cpus": 1})], "replace all", "Repeat them"),
    "another router": (
        [("engine.request_router_config", {"request_routing_stats_period_s": 2})],
        "replaces the router",
        "ShardRouter",
    ),
    "user_config": ([("engine.user_config", {"a": 1})], "no deployment of ours takes it", "args"),
    "Ray's target beside our policy": (
        [_policy(), ("engine.autoscaling_config.target_ongoing_requests", 4)],
        "only Ray's own rule",
        "Remove it",
    ),
    "no such port": ([("http_options.port", 80_000)], "there is no port 80000", "1024"),
    "prefix of the proxy": ([("app.route_prefix", "/rank")], "its own paths", "gateway"),
    "killed when busy": ([("engine.health_check_timeout_s", 2)], "busy engine", "at least 10"),
    "option of the proxy": ([("http_options.request_timeout_s", 60)], "which is not there", "args.limits.timeout_s"),
    "short drain": ([("ingress.graceful_shutdown_timeout_s", 30)], "waits 30 s", "at least 120"),
    "queue longer than patience": ([("app.args.admission", {"max_queue_s": 300})], "given up after 120", "Lower"),
    "nothing fits": ([("app.args.admission", {"max_tokens_in_flight": 10})], "not even one", "Raise"),
    "more documents than values": ([("app.args.limits", {"max_json_values": 10})], "max_json_values", "Raise"),
    "overlap of half a window": (
        [("app.args.long_documents", {"window_tokens": 200})],
        "not less than half a window",
        "Lower",
    ),
    "window larger than a prompt": (
        [("app.args.long_documents", {"window_tokens": 9000})],
        "does not fit a prompt",
        "Lower",
    ),
    "model larger than a shard": (
        [("app.args.planning", {"max_shard_tokens": 4096})],
        "must not exceed",
        "go together",
    ),
    "unknown setting of our policy": ([_policy(target_queue=1)], "Extra inputs", "Known are target_queue_s"),
    "delay beside our policy": ([_policy(), ("engine.autoscaling_config.upscale_delay_s", 30)], "30 s more", "s: 0"),
    "late figures": ([_policy(), ("engine.autoscaling_config.metrics_interval_s", 10)], "10 s late", "interval_s: 1"),
    "refused before scaled": ([_policy(target_queue_s=9)], "lists are refused at 5 s", "max_queue_s"),
    "buckets that differ": (
        [("app.runtime_env", {"env_vars": {"RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "1,2"}})],
        "different buckets",
        "controller_options",
    ),
    "public without keys": ([("http_options.host", "0.0.0.0")], "there are no API keys", "access.keys_file"),  # noqa: S104
    "a proxy in Python": ([("proxy_location", "HeadOnly")], "which costs it 7 ms", "Give Disabled"),
    "a proxy by default": ([("proxy_location", REMOVED)], "with EveryNode", "RAY_SERVE_ENABLE_HA_PROXY=1"),
    "a page that a proxy reaches": ([("proxy_location", "EveryNode")], "answers the ingress only", "Remove it, or"),
    "argument that vLLM has not": (
        [("app.args.engine.vllm_args", {"enforce-egar": True})],
        "vLLM has no argument enforce-egar",
        "Did you mean enforce_eager?",
    ),
    "argument of the embedding engine": (
        [("app.args.search.embedding.vllm_args", {"no_such_thing": 1})],
        "vLLM has no argument",
        "vllm serve --help",
    ),
    "quantization by an old name": (
        [("app.args.engine.quantization", "fp8")],
        "deprecated this name",
        "fp8_per_channel",
    ),
    "quantization that vLLM has not": (
        [("app.args.engine.quantization", "int3")],
        "vLLM has no quantization int3",
        "gptq",
    ),
    "no applications": ([("applications", REMOVED)], "Field required", "set of applications"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistake_is_found_with_its_line_and_remedy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RERANKER_API_KEYS", raising=False)
    edits, problem, remedy = MISTAKES[kind]
    found = _found(*edits)
    assert any(re.search(problem, one) and remedy in one for one in found), found
    assert all(re.match(r"\d+: [^ ]*: .+\. .+", one) for one in found), found


def test_our_policy_as_it_should_be_passes() -> None:
    assert _found(_policy(target_queue_s=2)) == []


def test_line_is_the_mistakes_own() -> None:
    lines = (ROOT / "serve_config.yaml").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if "max_replicas" in line)
    lines[place] = lines[place].replace("max_replicas", "max_replica")
    [found] = check("\n".join(lines)).findings
    assert found.startswith(f"{place + 1}: applications[0].deployments[1].autoscaling_config.max_replica: unknown key")


def test_repeated_key_is_found() -> None:
    text = (ROOT / "serve_config.yaml").read_text()
    [found] = check(text + "proxy_location: Disabled\n").findings
    assert found.startswith(f"{len(text.splitlines()) + 1}: proxy_location: is given twice. Only the last counts")


def test_repeated_key_within_a_manifest_has_the_line_of_the_file() -> None:
    manifest = "apiVersion: ray.io/v1\nkind: RayService\nspec:\n  serveConfigV2: |\n    a: 1\n    a: 2\n"
    [found] = check(manifest).findings
    assert found.startswith("6: a: is given twice")


def test_contradiction_is_shown_at_the_key_to_change() -> None:
    text = (ROOT / "serve_config.yaml").read_text()
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "name: demo" in one)
    [found] = check(text.replace("name: demo", "name: demo\n      admission: {max_queue_s: 300}", 1)).findings
    assert found.startswith(f"{line + 1}: applications[0].args.admission.max_queue_s: lists may queue 300 s")


def test_text_that_is_not_yaml_is_found() -> None:
    [found] = check("a:\n  - b\n c: [").findings
    assert found.startswith("3: this is not YAML")


@pytest.mark.parametrize("edits", [[("http_options.host", "0.0.0.0")]])  # noqa: S104
def test_keys_in_the_environment_are_keys(edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKER_API_KEYS", "secret")
    assert _found(*edits) == []


def test_other_applications_are_left_their_arguments() -> None:
    """Only the form that Ray gives them is checked."""
    other = {"name": "other", "route_prefix": "/other", "import_path": "json:dumps", "args": {"anything": 1}}
    config = _edited()
    config["applications"].append(other)
    assert check(yaml.safe_dump(config)).findings == ()


def test_command_passes_our_own_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(ROOT / "serve_config.yaml")]) == 0
    assert capsys.readouterr().out.endswith("serve_config.yaml: ok (1 Serve configuration)\n")


def test_command_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("applications: []\nhttp_option: {}\n")
    assert main(["config", "check", str(path)]) == 1
    assert f"{path}:2: http_option: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_text("a: 1\n---\nkind: Service\napiVersion: v1\n"), "unknown key"),
        (lambda path: path.write_text("kind: Service\napiVersion: v1\n"), "there is no Serve configuration in it"),
        (lambda path: path.write_bytes(b"\xff"), "is not UTF-8"),
        (lambda path: None, "No such file"),
    ],
)
def test_command_refuses_what_it_cannot_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], object], said: str
) -> None:
    """Checked must mean checked: a path that is misspelt is no success."""
    path = tmp_path / "file.yaml"
    write(path)
    assert main(["config", "check", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_command_reads_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`kubectl kustomize … | reranker config check -` in a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO((ROOT / "serve_config.yaml").read_text()))
    assert main(["config", "check", "-"]) == 0
    assert capsys.readouterr().out == "-: ok (1 Serve configuration)\n"


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([("ui.args", {"service": {}})], "applications[1].args.service: unknown key"),
        ([("ui.args", {"services": {"other": "other:8000"}})], "a URL must begin with http"),
        ([("ui.deployments", [{"name": "Playground", "num_replicas": 2}])], "known to one replica only"),
        ([("ui.deployments", [{"name": "Ingress"}])], "the playground has no deployment Ingress"),
    ],
)
def test_the_playground_s_own_settings_are_checked(edits: list[Edit], said: str) -> None:
    [found] = _found(*edits)
    assert said in found
