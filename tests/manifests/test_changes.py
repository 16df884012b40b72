"""`reranker config check` says of anybody's manifests what would go wrong in an upgrade, a drain or a first install."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from deployments.checks import check
from tests.manifests.conftest import kustomized, objects

# Any: YAML.
Things = list[dict[str, Any]]
Change = Callable[[Things], object]


def _find(things: Things, kind: str, name: str = "reranker") -> Any:
    return next(one for one in things if one["kind"] == kind and one["metadata"]["name"] == name)


def _service(things: Things) -> Any:
    return _find(things, "RayService")["spec"]


def _group(things: Things, number: int) -> Any:
    return _service(things)["rayClusterConfig"]["workerGroupSpecs"][number]


def _pod(things: Things, number: int) -> Any:
    return _group(things, number)["template"]["spec"]


def _container(things: Things, number: int) -> Any:
    return _pod(things, number)["containers"][0]


def _head(things: Things) -> Any:
    return _service(things)["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]


TWO_MODELS = """default: fast
      models:
        best: {name: /models/Qwen3-Reranker-4B}
        fast:
          name: /models/Qwen3-Reranker-0.6B
          engine:"""
SHARED = ("one_per_node: true", "one_per_node: false")
OPTION = "graceful_shutdown_timeout_s: 150"
"""Of the ingress: others can stand before it."""


def _in_config(*changes: tuple[str, str]) -> Change:
    def change(things: Things) -> None:
        for old, new in changes:
            text = _service(things)["serveConfigV2"]
            assert old in text
            _service(things)["serveConfigV2"] = text.replace(old, new)

    return change


def _budget(name: str, **spec: object) -> Change:
    def change(things: Things) -> None:
        given = _find(things, "PodDisruptionBudget", f"reranker-{name}")["spec"]
        del given["minAvailable"]
        given.update(spec)

    return change


def _own_service(things: Things) -> None:
    spec = {"selector": {"reranker.dev/role": "ingress"}, "ports": [{"port": 8000, "targetPort": "serve"}]}
    things.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "own"}, "spec": spec})


def _weights(things: Things) -> None:
    things += yaml.safe_load_all(kustomized("overlays/prod/weights").replace("CHANGE-ME", "main"))


def _asks(path: str) -> Change:
    return lambda things: _container(things, 0)["readinessProbe"].update(
        exec={"command": ["wget", f"localhost:8000{path}"]}
    )


MISTAKES: dict[str, tuple[Change, str, str]] = {
    "a Service of our own": (_own_service, "sends requests to the new cluster", "spec.serveService"),
    "KubeRay's Service as it is": (
        lambda all_: _service(all_).pop("serveService"),
        "those of engine do not",
        "targetPort",
    ),
    "a port by its number": (
        lambda all_: _service(all_)["serveService"]["spec"]["ports"][0].update(targetPort=8000),
        "those of engine do not listen",
        "a name that only the ingress has",
    ),
    "a port that engines have too": (
        lambda all_: _service(all_)["serveService"]["spec"]["ports"][0].update(targetPort="reranker"),
        "a port of the ingress pods and of no others",
        "in their group alone",
    ),
    "incremental upgrade": (
        lambda all_: _service(all_)["upgradeStrategy"].update(type="NewClusterWithIncrementalUpgrade"),
        "it ignores serveService",
        "Give NewCluster",
    ),
    "a first start that is given up": (
        lambda all_: _find(all_, "RayService")["metadata"].update(annotations={"ray.io/initializing-timeout": "60m"}),
        "never tries again",
        "Remove",
    ),
    "two ingresses in a pod": (
        _in_config(SHARED),
        "share a pod",
        "one_per_node: true",
    ),
    "no pod for all": (lambda all_: _group(all_, 0).update(maxReplicas=15), "16 ingress replicas", "Give 16"),
    "no pod for an update": (
        _in_config(SHARED, (OPTION, f"max_replicas_per_node: 1\n        {OPTION}")),
        "an update starts before",
        "Give 17",
    ),
    "no room beside the old": (_in_config(("ingress: 0.5", "ingress: 1")), "none starts beside the old", "Give 2"),
    "two ways to place it": (
        _in_config((OPTION, f"ray_actor_options: {{ num_cpus: 1 }}\n        {OPTION}")),
        "replace args.ingress",
        "Remove",
    ),
    "ready with engines only": (_asks("/health"), "every ingress pod leaves", "/-/healthz"),
    "another word for it": (_asks("/v1/health/ready"), "every ingress pod leaves", "/-/healthz"),
    "leaves in silence": (
        _in_config(("notice_s: 20", "notice_s: 0")),
        "for up to 15 s, and takes them for 0 s",
        "notice_s",
    ),
    "is noticed late": (
        lambda all_: _container(all_, 0)["readinessProbe"].update(failureThreshold=6),
        "for up to 40 s, and takes them for 20 s",
        "failureThreshold: 1",
    ),
    "percentage": (_budget("engine", minAvailable="50%"), "cannot count", "as a number"),
    "most that may go": (_budget("engine", maxUnavailable=1), "cannot count", "as a number"),
    "all must stay": (_budget("ingress", minAvailable=2), "no more than 2", "at most 1"),
    "head built without weights": (lambda all_: _head(all_).pop("initContainers"), "is not tried again", "waits for"),
    "ingress without weights": (lambda all_: _pod(all_, 0).pop("initContainers"), "is not tried again", "waits for"),
    "waits for another model": (
        lambda all_: _pod(all_, 1)["initContainers"][0]["env"][0].update(value="Qwen3-Reranker-8B"),
        "waits for Qwen3-Reranker-8B",
        "the same model",
    ),
    "waits for one of two models": (
        _in_config(
            ("model:\n        name: /models/Qwen3-Reranker-0.6B\n      engine:", TWO_MODELS),
            ("        device: cuda", "            device: cuda"),
            ("        cpus: 2", "            cpus: 2"),
        ),
        "waits for Qwen3-Reranker-0.6B, and Qwen3-Reranker-0.6B, Qwen3-Reranker-4B is to be served",
        "the same models",
    ),
    "weights of a branch": (_weights, "main is no commit", "40 characters"),
    "counts the old cluster": (
        lambda all_: _pod(all_, 0)["topologySpreadConstraints"][1].pop("matchLabelKeys"),
        "the old cluster's pods count",
        "[ray.io/cluster]",
    ),
    "counts GPU nodes": (
        lambda all_: _pod(all_, 0)["topologySpreadConstraints"][1].pop("nodeTaintsPolicy"),
        "count as nodes without one",
        "Honor",
    ),
    "no time for an engine": (
        lambda all_: _container(all_, 1).pop("lifecycle"),
        "in a drain of 10 s a successor of EngineReplica has 0 s",
        "360 s or more",
    ),
    "no time for an ingress": (
        lambda all_: _container(all_, 0)["lifecycle"]["preStop"]["exec"]["command"].__setitem__(2, "160"),
        "a successor of Ingress has 10 s",
        "210 s or more",
    ),
    "killed in its drain": (
        lambda all_: _pod(all_, 1).update(terminationGracePeriodSeconds=600),
        "killed after 600 s, and its drains take 910 s",
        "more than 910",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistake_is_found_with_its_cure(kind: str) -> None:
    change, said, cure = MISTAKES[kind]
    things = copy.deepcopy(objects("prod"))
    change(things)
    findings = check(yaml.safe_dump_all(things)).findings
    assert any(said in one and cure in one for one in findings), findings
    assert all(re.fullmatch(r"\d+: [^ ]+: [^.]+(\.\S[^.]*)*\. .+", one) for one in findings), findings


def test_other_objects_are_left_alone() -> None:
    """Budgets and Services of something else, and one that follows the head."""
    things = objects("prod")
    other = {"matchLabels": {"app": "other"}}
    head = {"ray.io/node-type": "head"}
    things += [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "a"},
            "spec": {"selector": other, "maxUnavailable": 1},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"selector": {"app": "other"}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"selector": head}},
    ]
    assert check(yaml.safe_dump_all(things)).findings == ()
