"""What no schema knows: that selectors select, that names meet, that times fit, that nothing runs as root."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from benchmarks.models import SHAPES
from deployments.autoscaling import GAUGES
from reranker import metrics
from reranker.config import RerankerConfig
from reranker.engine import metrics as engine_metrics
from reranker.engine.cards import CARDS, gpus_needed, size_of_shape
from reranker.engine.device import Gpu
from reranker.metrics import metrics_of
from reranker.ranking import agreement
from tests.manifests.conftest import ROOT, objects, pod_templates, ray_service


def _configured(overlay: str) -> list[RerankerConfig]:
    """The settings of each model of an overlay."""
    config = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])
    return list(RerankerConfig.model_validate(config["applications"][0]["args"]).each_model().values())


def _selectors(value: Any) -> list[dict[str, Any]]:
    """Every selector of pods that an object has."""
    found = []
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("selector", "podSelector", "labelSelector") and part:
                part = part if {"matchLabels", "matchExpressions"} & set(part) else {"matchLabels": part}  # a Service's
                found.append(part)
            found += _selectors(part)
    elif isinstance(value, list):
        for part in value:
            found += _selectors(part)
    return found


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", [])
    return wanted and all(
        one["key"] in labels and (one["operator"] == "Exists" or labels[one["key"]] in one["values"])
        for one in expressions
    )


def test_every_selector_selects_pods_of_ours(overlay: str) -> None:
    """A policy or a budget for no pod is valid, and does nothing."""
    labels = [template["metadata"]["labels"] for template in pod_templates(overlay)]
    elsewhere = {"kuberay-operator", "kube-dns"}
    for thing in objects(overlay):
        for selector in _selectors(thing.get("spec", {})):
            if not elsewhere & set(selector.get("matchLabels", {}).values()):
                assert any(_matches(selector, one) for one in labels), (thing["metadata"]["name"], selector)


def test_every_container_is_locked_down(overlay: str) -> None:
    templates = pod_templates(overlay)
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contexts = [
        container["securityContext"]
        for template in templates
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", [])
    ]
    contexts.append(ray_service(overlay)["spec"]["rayClusterConfig"]["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_container_has_its_resources_and_memory_is_not_overbooked(overlay: str) -> None:
    """KubeRay tells Ray the limits; a request below them would let the node run out of memory."""
    for template in pod_templates(overlay):
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"]["cpu"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_pods_wait_for_the_model_that_is_served(overlay: str) -> None:
    """The init containers' models and the names in `args` are two places for one thing."""
    served = [one.model.name for one in _configured(overlay)]
    for template in pod_templates(overlay):
        [waiting] = template["spec"]["initContainers"]
        assert served == [f"/models/{one}" for one in waiting["env"][0]["value"].split()]


def test_gateway_leads_to_the_ingress_pods(overlay: str) -> None:
    [route] = [one for one in objects(overlay) if one["kind"] == "HTTPRoute"]
    [rule] = route["spec"]["rules"]
    service = ray_service(overlay)["spec"]["serveService"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}]
    removed = rule["filters"][0]["requestHeaderModifier"]["remove"]
    assert set(removed) == {"x-request-timeout-seconds", "x-request-disconnect-disabled"}


def test_monitored_ports_are_ports_of_the_pods(overlay: str) -> None:
    [monitor] = [one for one in objects(overlay) if one["kind"] == "PodMonitor"]
    ports = {
        port["name"]
        for template in pod_templates(overlay)
        for one in template["spec"]["containers"]
        for port in one["ports"]
    }
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_pods_with_replicas_and_the_network_open_the_port_of_their_metrics(overlay: str) -> None:
    """The port in the configuration and in the manifests are places for one thing."""
    config = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])
    port = config["applications"][0]["args"]["observability"]["metrics_port"]
    for template in pod_templates(overlay)[1:]:
        [container] = template["spec"]["containers"]
        assert [one["containerPort"] for one in container["ports"] if one["name"] == "reranker"] == [port]
    [policy] = [one for one in objects(overlay) if one["metadata"]["name"] == "reranker-prometheus"]
    assert port in {one["port"] for rule in policy["spec"]["ingress"] for one in rule["ports"]}


def _asked_by_alerts() -> str:
    [rules] = [one for one in objects("prod") if one["kind"] == "PrometheusRule"]
    return " ".join(rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])


def _asked_by_dashboards() -> str:
    [maps] = [one for one in objects("prod") if one["kind"] == "ConfigMap"]
    boards = [json.loads(text) for text in maps["data"].values()]
    return " ".join(
        target["expr"] for board in boards for panel in board["panels"] for target in panel.get("targets", ())
    )


@pytest.mark.parametrize("queries", [_asked_by_alerts(), _asked_by_dashboards()], ids=["alerts", "dashboards"])
def test_alerts_and_dashboards_ask_for_metrics_that_exist(queries: str) -> None:
    """An alert on a misspelt metric never fires, and a panel stays empty."""
    asked = set(re.findall(r"\b(?:ray|reranker)_\w+", queries))
    ours = {f"ray_{name}" for name in GAUGES}
    for metric in (*metrics_of(metrics), *metrics_of(agreement), *metrics_of(engine_metrics)):
        [family] = metric.describe()
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        ours |= {f"{family.name}{ending}" for ending in endings}
    assert asked & ours
    package = Path(ray.__file__).parent
    files = [*(package / "serve" / "_private").glob("*.py"), *package.glob("dashboard/modules/reporter/*.py")]
    source = "".join(path.read_text() for path in files)
    quoted = set(re.findall(r'"\w+"', source.replace("{protocol_name}", "http")))
    names = {name: name.removeprefix("ray_") for name in asked - ours}  # Ray's exporter gives counters their `_total`
    unknown = {one for one, name in names.items() if not {f'"{name}"', f'"{name.removesuffix("_total")}"'} & quoted}
    assert unknown == set()


def test_secrets_of_the_manifests_are_those_that_the_documentation_makes(overlay: str) -> None:
    text = yaml.safe_dump_all(objects(overlay))
    asked = set(re.findall(r"(?:secretName|certificateRefs:\s+- kind: Secret\s+name): (\S+)", text))
    asked |= {"reranker-redis"} if "secretKeyRef" in text else set()
    documentation = (ROOT / "docs" / "kubernetes.md").read_text()
    assert asked
    assert [name for name in asked if f" {name} " not in documentation] == []


CARDS_OF = {"dev": "L4", "prod": "L4", "prod-4b": "L4", "prod-8b-tp2": "A4000", "prod-two-models": "L4"}
"""The smallest that each overlay's first lines name."""
SMALLER = Gpu("NVIDIA RTX A4000", (8, 6), 16.0)


def test_gpus_of_a_replica_are_as_many_as_its_model_needs(overlay: str) -> None:
    """Several GPUs for a model that fits one: they would talk in every layer, and fail together."""
    [engine] = [one for one in pod_templates(overlay) if one["metadata"]["labels"]["reranker.dev/role"] == "engine"]
    [container] = engine["spec"]["containers"]
    for args in _configured(overlay):
        [shape] = [one for name, one in SHAPES.items() if args.model.name.lower().endswith(f"-{name}")]
        size = size_of_shape(shape.config, "bfloat16", args.engine.quantization)
        assert size is not None
        needed = gpus_needed(size, CARDS.get(CARDS_OF[overlay], SMALLER))
        for given in ("requests", "limits"):
            assert int(container["resources"][given]["nvidia.com/gpu"]) == needed
        assert args.engine.tensor_parallel_size == needed


def test_engines_keep_what_they_compile_on_a_volume_that_they_may_write_to(overlay: str) -> None:
    """With the pod it would be gone, and each scale-up would compile again."""
    [engine] = [one for one in pod_templates(overlay) if one["metadata"]["labels"]["reranker.dev/role"] == "engine"]
    [container] = engine["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "compiled"]
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"):
        assert variables[name].startswith(mount["mountPath"] + "/")
    assert not mount.get("readOnly")
    [volume] = [one for one in engine["spec"]["volumes"] if one["name"] == "compiled"]
    [claim] = [one for one in objects(overlay) if one["kind"] == "PersistentVolumeClaim"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == "CHANGE-ME"  # of values.env
