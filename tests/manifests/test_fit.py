"""`reranker config check` compares the pods with the Serve configuration in the same manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from deployments.checks import check
from tests.manifests.conftest import ray_service

# Any: YAML.
Change = Callable[[dict[str, Any]], object]


def _cluster(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["spec"]["rayClusterConfig"]
    return found


def _pod(service: dict[str, Any], group: int) -> dict[str, Any]:
    found: dict[str, Any] = _cluster(service)["workerGroupSpecs"][group]["template"]["spec"]
    return found


def _in_config(old: str, new: str) -> Change:
    def change(service: dict[str, Any]) -> None:
        text = service["spec"]["serveConfigV2"]
        assert old in text
        service["spec"]["serveConfigV2"] = text.replace(old, new)

    return change


def _environment(service: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = _pod(service, 1)["containers"][0]["env"]
    return found


MISTAKES: dict[str, tuple[Change, str]] = {
    "name too long": (lambda one: one["metadata"].update(name="r" * 50), "KubeRay takes at most 47"),
    "another Ray": (lambda one: _cluster(one).update(rayVersion="2.50.0"), "2.50.0 is not the Ray"),
    "no port for clients": (
        lambda one: _cluster(one)["headGroupSpec"]["template"]["spec"]["containers"][0].pop("ports"),
        "no port named serve",
    ),
    "work on the head": (lambda one: _cluster(one)["headGroupSpec"]["rayStartParams"].clear(), "placed on the head"),
    "upgrade cuts requests off": (lambda one: one["spec"].update(rayClusterDeletionDelaySeconds=60), "after 60 s"),
    "killed while it drains": (lambda one: _pod(one, 0).update(terminationGracePeriodSeconds=100), "Ingress may drain"),
    "no room for all replicas": (_in_config("max_replicas: 16", "max_replicas: 50"), "have room for 16"),
    "no pod with so many GPUs": (
        _in_config("device: cuda", "device: cuda\n        tensor_parallel_size: 4"),
        "takes 4 GPUs, and no pod has more than 1",
    ),
    "nobody offers a resource": (_in_config("ingress: 0.5 }", "front: 0.5 }"), "'front', which no group"),
    "reached by nobody": (_in_config("host: 0.0.0.0", "host: 127.0.0.1"), "no other pod reaches"),
    "simulated": (_in_config("device: cuda", "device: cuda\n        simulated: {}"), "scores mean nothing"),
    "no keys": (_in_config("keys_file: /etc/reranker/keys/keys.yaml", "allow_anonymous: false"), "no API keys"),
    "buckets that differ": (
        lambda one: _environment(one).append({"name": "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS", "value": "1"}),
        "histograms cannot be added",
    ),
    "no Serve configuration": (lambda one: one["spec"].pop("serveConfigV2"), "a RayService needs it"),
    "a list": (lambda one: one["spec"].update(serveConfigV2="- a\n"), "is no Serve configuration"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistake_is_found(kind: str) -> None:
    change, said = MISTAKES[kind]
    service = ray_service("prod")
    change(service)
    findings = check(yaml.safe_dump(service)).findings
    assert any(said in one for one in findings), findings


def test_gpus_of_all_models_are_added_up_and_found_room_for() -> None:
    service = ray_service("prod-two-models")
    report = check(yaml.safe_dump(service))
    assert (report.findings, report.gpus) == ((), "the engines of 2 models take 4 to 24 GPUs, unless on the CPU")
    _cluster(service)["workerGroupSpecs"][1]["maxReplicas"] = 23
    [finding] = check(yaml.safe_dump(service)).findings
    assert "up to 24 engine replicas are wanted (16 of EngineReplica, 8 of EngineReplica-best)" in finding


def test_keys_may_come_from_the_pods_environment() -> None:
    service = ray_service("prod")
    _in_config("keys_file: /etc/reranker/keys/keys.yaml", "allow_anonymous: false")(service)
    head = _cluster(service)["headGroupSpec"]["template"]["spec"]
    for pod in (head, _pod(service, 0), _pod(service, 1)):
        pod["containers"][0]["env"].append({"name": "RERANKER_API_KEYS", "valueFrom": {"secretKeyRef": {}}})
    assert check(yaml.safe_dump(service)).findings == ()


def test_line_of_a_mistake_in_the_embedded_text_is_a_line_of_the_manifest() -> None:
    """People open the manifest, not the text in it."""
    text = "kind: RayService\napiVersion: ray.io/v1\nspec:\n  serveConfigV2: |\n    applications: []\n    htp: {}\n"
    assert any(one.startswith("6: htp: unknown key") for one in check(text).findings)
