"""Before, during and after an upgrade, a drain and a first install: what the operator and Kubernetes would do."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.conftest import ROOT, kustomized
from tests.manifests.kubernetes import HTTP, Manifests, Node, Pod, drain_s, place


@pytest.fixture
def manifests(overlay: str) -> Manifests:
    """Each overlay, as built."""
    return Manifests(overlay)


def _stages(of: Manifests) -> dict[str, tuple[str, list[Pod]]]:
    """What an upgrade to another image goes through (K/rayservice_controller.go): the active cluster, and all pods.

    A cluster becomes active once all its Serve applications run, whatever its pods say.
    """
    old, new = of.cluster("old"), of.cluster("new")
    return {
        "before": ("old", old),
        "its ingress is up, its engines are not": ("old", old + of.cluster("new", engines=0)),
        "it has one engine": ("old", old + of.cluster("new", engines=1)),
        "it runs, and KubeRay has not looked yet": ("old", old + new),
        "switched": ("new", old + new),
        "after": ("new", new),
    }


def test_requests_reach_the_cluster_that_serves_and_no_other(manifests: Manifests) -> None:
    """A cluster that is not ready, or never will be, gets nothing; the old one, once it is old, gets no new request."""
    for stage, (active, pods) in _stages(manifests).items():
        backends = manifests.backends(active, pods)
        assert backends, stage
        assert {pod.cluster for pod, _ in backends} == {active}, stage


def test_every_pod_that_gets_requests_listens(manifests: Manifests) -> None:
    for stage, (active, pods) in _stages(manifests).items():
        refused = [pod.role for pod, port in manifests.backends(active, pods) if not pod.listens or port != HTTP]
        assert refused == [], stage


def test_there_is_one_service_for_clients(manifests: Manifests) -> None:
    """KubeRay writes the one with its name over ours, or ours over KubeRay's, whoever came last."""
    assert [one["metadata"]["name"] for one in manifests.objects if one["kind"] == "Service"] == []
    assert manifests.serve_service("any")["metadata"]["name"] == "reranker"


def test_each_ingress_replica_has_a_pod_of_its_own(manifests: Manifests) -> None:
    """Two in one pod: the other pod answers nobody, and the one that does cannot be drained."""
    assert manifests.per_pod == 1
    least = manifests.replicas("Ingress", "min_replicas")
    assert sum(pod.listens for pod in manifests.cluster("any")) == least <= manifests.ingress["minReplicas"]


def test_update_of_as_many_ingress_replicas_as_there_may_be_finds_a_pod(manifests: Manifests) -> None:
    """max_surge_percent: a new one starts before an old one stops."""
    spare = manifests.ingress["maxReplicas"] * manifests.per_pod - manifests.replicas("Ingress", "max_replicas")
    assert spare >= (0 if manifests.beside_the_old else 1)


def test_ingress_that_leaves_answers_until_its_pod_is_out_of_the_service(manifests: Manifests) -> None:
    [container] = manifests.ingress["template"]["spec"]["containers"]
    probe = container["readinessProbe"]
    spread_s = 5  # of the news, over the API server, to every proxy
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] + spread_s
    limits = manifests.args.get("limits", {})
    assert limits.get("notice_s", 0) >= noticed_s
    ends_s = manifests.deployments["Ingress"]["graceful_shutdown_timeout_s"]
    assert limits["notice_s"] + limits.get("timeout_s", 120) < ends_s


def test_ingress_pods_stay_in_the_service_when_the_last_engine_has_gone(manifests: Manifests) -> None:
    """Lists wait for the next engine there. A gateway without any pod refuses them at once."""
    reached = [pod.role for pod, _ in manifests.backends("one", manifests.cluster("one", engines=0))]
    assert reached == ["ingress"] * manifests.replicas("Ingress", "min_replicas")


def test_incremental_upgrade_would_ask_pods_that_do_not_listen(manifests: Manifests) -> None:
    """KubeRay ignores serveService there, and its own Service has a number as its port: why the check refuses it."""
    manifests.spec["upgradeStrategy"]["type"] = "NewClusterWithIncrementalUpgrade"
    backends = manifests.backends("one", manifests.cluster("one"))
    assert {pod.role for pod, _ in backends if not pod.listens} == {"engine"}
    assert "clusterUpgradeOptions" not in (ROOT / "docs" / "kubernetes.md").read_text()


def test_nodes_can_be_drained_before_in_and_after_an_upgrade(manifests: Manifests) -> None:
    for stage, (_, pods) in _stages(manifests).items():
        for pod in pods:
            if stage != "its ingress is up, its engines are not" or pod.cluster == "old":
                assert manifests.may_be_evicted(pod, pods), (stage, pod.role)


def test_drains_leave_one_of_each_where_there_are_two(manifests: Manifests) -> None:
    pods = manifests.cluster("one")
    for role in ("ingress", "engine"):
        many = [pod for pod in pods if pod.role == role]
        left = list(pods)
        for pod in many:
            if manifests.may_be_evicted(pod, left):
                left.remove(pod)
        models = len(manifests.models) if role == "engine" else 1
        stay = len(many) - 1 if models > 1 else int(len(many) > 1)  # whose a pod is, no budget knows
        assert len([pod for pod in left if pod.role == role]) == stay


def test_new_cluster_finds_room_beside_the_old_one(manifests: Manifests) -> None:
    """On two CPU nodes, among GPU nodes and the control plane's, which take no ingress."""
    gpus = [Node(f"gpu-{number}", ("nvidia.com/gpu",)) for number in range(4)]
    nodes = [Node("cpu-0"), Node("cpu-1"), Node("control", ("node-role.kubernetes.io/control-plane",)), *gpus]
    for cluster in ("old", "new"):
        assert [pod.role for pod in place(manifests.cluster(cluster), nodes)] == [], cluster
        mine = [pod for pod in manifests.cluster(cluster) if pod.role == "ingress"]
        having = {node.name for node in nodes for pod in node.pods if (pod.role, pod.cluster) == ("ingress", cluster)}
        assert len(having) == min(len(mine), 2)  # a node's loss is not the service's


@pytest.mark.parametrize(("group", "least_s"), [("ingress", 60), ("engine", 600)])
def test_drain_leaves_time_for_the_successor(manifests: Manifests, group: str, least_s: int) -> None:
    """Serve stops a replica graceful_shutdown_timeout_s before the deadline, whether its successor is up or not.

    (ray/serve/_private/deployment_state.py, _partition_groups_to_stop.) A new ingress needs a pod; an engine a GPU
    node, an image and a model.
    """
    ours_s, _, _ = drain_s(getattr(manifests, group))
    for name in manifests.deployments:
        if (name == "Ingress") == (group == "ingress"):
            assert ours_s - manifests.deployments[name]["graceful_shutdown_timeout_s"] >= least_s


def test_pod_is_killed_after_our_drain_and_rays_own(manifests: Manifests) -> None:
    margin_s = 20
    for group in (manifests.ingress, manifests.engine):
        ours_s, rays_s, killed_s = drain_s(group)
        assert ours_s + rays_s + margin_s <= killed_s


def _waits(template: dict[str, Any], folder: Path) -> bool:
    """Run a pod's init container on an empty volume, then with all models in it. Whether it ends then, not before."""
    for container in template["spec"].get("initContainers", ()):
        variables = {one["name"]: one["value"] for one in container["env"]}
        shared, own = folder / "shared", folder / "own"
        copies = any(mount["mountPath"] == "/shared-models" for mount in container["volumeMounts"])
        script = re.sub(r"(?<=[ \"])/shared-models\b", str(shared), container["command"][-1])
        script = re.sub(r"(?<=[ \"])/models\b", str(own if copies else shared), script).replace("sleep 5", "sleep 0.1")
        shared.mkdir()
        own.mkdir()
        running = subprocess.Popen(["bash", "-c", script], env={"PATH": "/usr/bin:/bin"} | variables)
        models = variables["MODEL"].split()
        try:
            for model in models:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(1)
                    return False  # it went on without the model
                (shared / model).mkdir()
                (shared / model / "config.json").touch()
            ended = running.wait(20) == 0
            return ended and (not copies or all((own / model / "config.json").exists() for model in models))
        finally:
            running.kill()
    return False  # nothing waits


@pytest.mark.parametrize("group", ["head", "ingress", "engine"])
def test_first_install_waits_for_the_weights(manifests: Manifests, group: str, tmp_path: Path) -> None:
    """KubeRay submits a configuration once: without the model there it would have failed for ever."""
    assert _waits(getattr(manifests, group)["template"], tmp_path)


def test_first_install_is_never_given_up(manifests: Manifests) -> None:
    assert "ray.io/initializing-timeout" not in manifests.service["metadata"].get("annotations", {})


def test_weights_are_the_overlays_own_model_at_a_commit(overlay: str) -> None:
    parts = list(yaml.safe_load_all(kustomized(f"overlays/{overlay}/weights")))
    [job] = [one for one in parts if one["kind"] == "Job"]
    variables = {one["name"]: one["value"] for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    fetched = [f"/models/{model.rpartition('/')[2]}" for model in variables["MODEL"].split()]
    assert Manifests(overlay).models == fetched
    assert variables["REVISION"] == "CHANGE-ME"  # tools/manifests.sh refuses what is no commit
    assert [one["kind"] for one in parts if one["kind"] == "PersistentVolumeClaim"]


@pytest.mark.parametrize(("revisions", "fetched"), [("one two", True), ("one", False), ("one two three", False)])
def test_weights_of_several_models_are_each_at_its_own_commit(tmp_path: Path, revisions: str, fetched: bool) -> None:
    """And once: a second run fetches nothing. A commit too few or too many would be another model's."""
    parts = yaml.safe_load_all(kustomized("overlays/prod-two-models/weights"))
    [job] = [one for one in parts if one["kind"] == "Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    *shell, script = container["command"]
    (tmp_path / "hf").write_text(f'#!/bin/bash\nmkdir "${{!#}}"\necho "$2 $4" >> {tmp_path}/asked\n')
    (tmp_path / "hf").chmod(0o755)
    (tmp_path / "asked").touch()
    models = "Qwen/Qwen3-Reranker-0.6B Qwen/Qwen3-Reranker-4B"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MODEL": models, "REVISION": revisions}
    for _ in range(2):
        done = subprocess.run([*shell, script.replace("/models/", f"{tmp_path}/models-")], env=environment, check=False)
        assert (done.returncode == 0) == fetched
    asked = [f"{model} {revision}" for model, revision in zip(models.split(), ("one", "two"), strict=True)]
    assert (tmp_path / "asked").read_text().splitlines() == asked * fetched


def test_nothing_of_ours_is_pinned_to_a_pod() -> None:
    """A detached actor keeps its node busy: the autoscaler would never give that GPU back, nor a drain end early."""
    sources = [path.read_text() for part in ("deployments", "reranker") for path in (ROOT / part).rglob("*.py")]
    assert [text for text in sources if re.search(r"lifetime=|NodeAffinitySchedulingStrategy|@ray\.remote", text)] == []
