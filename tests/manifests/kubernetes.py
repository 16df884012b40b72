"""What KubeRay's operator (1.7) and Kubernetes make of the manifests: who is selected, ready, counted and placed.

Each rule names where it is from: K/ is ray-operator/controllers/ray in KubeRay's sources. Nothing here needs a cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.manifests.conftest import objects, ray_service

HTTP = 8000
RAYS_OWN_DRAIN_S = 30  # ray/_private/ray_constants.py, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S


@dataclass(frozen=True)
class Pod:
    """A pod of one of the Ray clusters that a RayService has during an upgrade."""

    template: Mapping[str, Any]
    labels: Mapping[str, str]
    listens: bool = False
    """Whether an ingress replica listens in it."""
    ready: bool = True

    @property
    def role(self) -> str:
        return self.labels["reranker.dev/role"]

    @property
    def cluster(self) -> str:
        return self.labels["ray.io/cluster"]

    def port(self, target: str | int) -> int | None:
        """The port that a Service's targetPort means here (Kubernetes: FindPort). None: the pod is no endpoint."""
        ports = [one for container in self.template["spec"]["containers"] for one in container.get("ports", ())]
        if isinstance(target, int):
            return target
        return next((int(one["containerPort"]) for one in ports if one["name"] == target), None)


@dataclass
class Node:
    """A machine; it has room for any number of pods."""

    name: str
    taints: tuple[str, ...] = ()
    pods: list[Pod] = field(default_factory=list)


class Manifests:
    """An overlay as built, and what comes of it."""

    def __init__(self, overlay: str) -> None:
        self.objects, self.service = objects(overlay), ray_service(overlay)
        self.spec: dict[str, Any] = self.service["spec"]
        cluster = self.spec["rayClusterConfig"]
        self.head: dict[str, Any] = cluster["headGroupSpec"]
        self.ingress: dict[str, Any] = cluster["workerGroupSpecs"][0]
        self.engine: dict[str, Any] = cluster["workerGroupSpecs"][1]
        config = yaml.safe_load(self.spec["serveConfigV2"])["applications"][0]
        self.args: dict[str, Any] = config["args"]
        self.models = [one["name"] for one in self.args.get("models", {"": self.args.get("model")}).values()]
        self.deployments = {one["name"]: one for one in config["deployments"]}

    def replicas(self, deployment: str, bound: str) -> int:
        """`min_replicas` or `max_replicas` of a deployment, or its fixed number."""
        given = self.deployments[deployment]
        return int(given.get("num_replicas") or given["autoscaling_config"][bound])

    @property
    def per_pod(self) -> int:
        """Ingress replicas that Serve may put into one pod: its spreading is best effort (deployment_scheduler.py)."""
        text = self.ingress["rayStartParams"].get("resources", "{}")
        offered = re.search(r"ingress\W+(\d+)", text) or re.search(r"(\d+)", self.ingress["resources"]["ingress"])
        assert offered
        own = self.args.get("ingress", {})
        if own.get("one_per_node"):
            return 1
        taken = own.get("resources", {}).get("ingress", 1)
        return min(int(int(offered[1]) / taken), int(self.deployments["Ingress"].get("max_replicas_per_node", 100)))

    @property
    def beside_the_old(self) -> int:
        """Ingress replicas of a new version that fit into a pod where one of the old version runs."""
        own = self.args.get("ingress", {})
        if not own.get("one_per_node"):  # Serve's max_replicas_per_node counts both versions
            return self.per_pod - 1
        taken = own["resources"]["ingress"]
        return int((float(self.ingress["resources"]["ingress"]) - taken) / taken)

    def cluster(self, name: str, *, engines: int | None = None) -> list[Pod]:
        """The pods of a Ray cluster of the least size, and how ready they are. engines: those that are up."""
        least = sum(self.replicas(name, "min_replicas") for name in self.deployments if name != "Ingress")
        up = least if engines is None else engines
        listening = math.ceil(self.replicas("Ingress", "min_replicas") / self.per_pod)
        pods = [self._pod(self.head, name, serves=not self.spec.get("excludeHeadPodFromServeSvc"))]
        pods += [
            self._pod(self.ingress, name, listens=number < listening, engines=up)
            for number in range(self.ingress["minReplicas"])
        ]
        pods += [self._pod(self.engine, name) for _ in range(max(least, self.engine["minReplicas"]))]
        return pods

    def _pod(
        self, group: Mapping[str, Any], cluster: str, *, serves: bool = True, listens: bool = False, engines: int = 0
    ) -> Pod:
        """Labels as in K/common/pod.go:839 and K/rayservice_controller.go:2098; a probe that is given is kept."""
        template = group["template"]
        labels = template["metadata"]["labels"] | {"ray.io/cluster": cluster, "ray.io/serve": str(serves).lower()}
        [container] = template["spec"]["containers"]
        asked = str(container.get("readinessProbe", f"raylet and {HTTP}/-/healthz" if serves else ""))
        ready = listens if str(HTTP) in asked else True
        if re.search(rf"{HTTP}/health\b", asked):  # deployments/http/routes.py: 503 without an engine
            ready = ready and engines > 0
        return Pod(template, labels, listens, ready)

    @property
    def incremental(self) -> bool:
        return bool(self.spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade")

    def backends(self, active: str, pods: Sequence[Pod]) -> list[tuple[Pod, int]]:
        """The pods, and their ports, that requests at the gateway reach while KubeRay calls one cluster active."""
        [route] = [one for one in self.objects if one["kind"] == "HTTPRoute"]
        [rule] = route["spec"]["rules"]
        [backend] = rule["backendRefs"]
        services = [self.serve_service(active)] + [one for one in self.objects if one["kind"] == "Service"]
        wanted = self.serve_service(active)["metadata"]["name"] if self.incremental else backend["name"]
        [service] = [one for one in services if one["metadata"]["name"] == wanted]
        return endpoints(service, pods)

    def serve_service(self, active: str) -> dict[str, Any]:
        """What KubeRay makes for clients (K/common/service.go:233-299): its selector is always its own."""
        selector = {"ray.io/cluster": active, "ray.io/serve": "true"}
        [head] = self.head["template"]["spec"]["containers"]
        found = [one for one in head["ports"] if one["name"].startswith("serve")]
        ports = {one["name"]: {"name": one["name"], "port": one["containerPort"]} for one in found}
        given, name = self.spec.get("serveService"), f"{self.service['metadata']['name']}-serve-svc"
        if given and not self.incremental:
            own = {one["name"]: one for one in given["spec"]["ports"]}
            ports = {name: own.get(name, port) for name, port in ports.items()} or own
            name = given["metadata"].get("name") or name
        return {"metadata": {"name": name}, "spec": {"selector": selector, "ports": list(ports.values())}}

    def may_be_evicted(self, pod: Pod, pods: Sequence[Pod]) -> bool:
        """Whether the API server lets a drain have this pod now (Kubernetes: disruption.go, eviction.go)."""
        budgets = [one["spec"] for one in self.objects if one["kind"] == "PodDisruptionBudget"]
        budgets = [one for one in budgets if matches(one["selector"], pod.labels)]
        if len(budgets) > 1:
            return False  # the eviction subresource does not support more than one
        return all(_allowed(one, pods) > 0 for one in budgets)


def _allowed(budget: Mapping[str, Any], pods: Sequence[Pod]) -> int:
    """How many may go. RayCluster has no scale subresource: what needs an expected number of pods fails safe, at 0."""
    least = budget.get("minAvailable")
    if not isinstance(least, int):
        return 0
    return sum(pod.ready for pod in pods if matches(budget["selector"], pod.labels)) - least


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; a Service's is a plain mapping."""
    wanted = selector if not {"matchLabels", "matchExpressions"} & set(selector) else selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        one["key"] in labels and (one["operator"] == "Exists" or labels[one["key"]] in one["values"])
        for one in selector.get("matchExpressions", ())
    )


def endpoints(service: Mapping[str, Any], pods: Sequence[Pod]) -> list[tuple[Pod, int]]:
    """Ready pods of a Service, each with the port that its requests go to."""
    spec = service["spec"]
    [port] = spec["ports"]
    found = [pod for pod in pods if pod.ready and matches(spec["selector"], pod.labels)]
    targets = [(pod, pod.port(port.get("targetPort", port["port"]))) for pod in found]
    return [(pod, number) for pod, number in targets if number is not None]


def place(pods: Sequence[Pod], nodes: Sequence[Node]) -> list[Pod]:
    """Place each pod where taints and hard spread constraints let it; give those that stay pending."""
    pending = []
    for pod in pods:
        tolerated = {one["key"] for one in pod.template["spec"].get("tolerations", ())}
        fitting = [one for one in nodes if set(one.taints) <= tolerated and _spreads(pod, one, nodes, tolerated)]
        if fitting:
            min(fitting, key=lambda one: len(one.pods)).pods.append(pod)
        else:
            pending.append(pod)
    return pending


def _spreads(pod: Pod, node: Node, nodes: Sequence[Node], tolerated: set[str]) -> bool:
    """Kubernetes' podtopologyspread/filtering.go, where each node is a domain."""
    for constraint in pod.template["spec"].get("topologySpreadConstraints", ()):
        if constraint["whenUnsatisfiable"] != "DoNotSchedule":
            continue
        honoured = constraint.get("nodeTaintsPolicy", "Ignore") == "Honor"
        domains = [one for one in nodes if not honoured or set(one.taints) <= tolerated]
        selector = constraint["labelSelector"]
        same = {key: pod.labels[key] for key in constraint.get("matchLabelKeys", ())}
        counts = {
            one.name: sum(matches(selector, it.labels) and matches(same, it.labels) for it in one.pods)
            for one in domains
        }
        if counts[node.name] + 1 - min(counts.values()) > constraint["maxSkew"]:
            return False
    return True


def drain_s(group: Mapping[str, Any]) -> tuple[int, float, int]:
    """Of a pod that ends: seconds of our drain, then of Ray's own, and until it is killed."""
    spec = group["template"]["spec"]
    [container] = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    own_s = float(variables.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", RAYS_OWN_DRAIN_S))
    return int(next(one for one in command if one.isdigit())), own_s, spec["terminationGracePeriodSeconds"]
