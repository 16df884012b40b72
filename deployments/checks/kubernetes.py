"""Manifests at the moments of change: what KubeRay (1.7) and Kubernetes do in an upgrade, a drain, a first install.

Each is accepted by `kubectl apply`, and shows only when a pod comes or goes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments import INGRESS_DEPLOYMENT, engine_deployments
from deployments.checks.document import YAML, Row
from deployments.checks.schema import Application, Deployment, ServeConfig
from reranker.config import IngressConfig

_CONFIG = "spec.serveConfigV2"
_CLUSTER_LABEL = "ray.io/cluster"
_RAYS_DRAIN, _RAYS_DRAIN_S = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30.0
_INGRESS_SUCCESSOR_S, _ENGINE_SUCCESSOR_S = 60.0, 300.0
"""What a successor takes at least: a pod; a node with a GPU, an image and a model."""
_NEWS_S = 5
"""From a probe's failure until every proxy knows."""
_ASKS_FOR_AN_ENGINE = re.compile(r"/(health|v1/health/ready|\.well-known/ready)\b(?!/)")


@dataclass(frozen=True, slots=True)
class Group:
    """The head, or a group of workers, of a RayService."""

    path: str
    spec: YAML
    port: int
    """On which the ingress listens."""

    @property
    def pod(self) -> YAML:
        return _get(self.spec, "template.spec") or {}

    @property
    def container(self) -> YAML:
        containers: Sequence[YAML] = self.pod.get("containers") or ({},)
        return containers[0]

    @property
    def ports(self) -> dict[str, int]:
        return {str(one.get("name")): one.get("containerPort") for one in self.container.get("ports") or ()}

    @property
    def is_head(self) -> bool:
        return "groupName" not in self.spec

    @property
    def answers(self) -> bool:
        """Whether clients' requests are for its pods."""
        return not self.is_head and self.port in self.ports.values()

    @property
    def name(self) -> str:
        return str(self.spec.get("groupName", "head"))

    @property
    def labels(self) -> dict[str, str]:
        """Those of its pods, with KubeRay's, but for the cluster's name."""
        kind = "head" if self.is_head else "worker"
        own = {"ray.io/node-type": kind, "ray.io/group": self.name, "ray.io/is-ray-node": "yes"}
        return {**(_get(self.spec, "template.metadata.labels") or {}), **own}

    @property
    def fewest(self) -> int:
        return 1 if self.is_head else int(self.spec.get("minReplicas") or 0)

    def variable(self, name: str) -> str | None:
        return next((one.get("value") for one in self.container.get("env") or () if one.get("name") == name), None)


def groups(manifest: YAML, port: int) -> list[Group]:
    """The head and the groups of workers of a RayService."""
    where = "spec.rayClusterConfig"
    workers = _get(manifest, f"{where}.workerGroupSpecs") or ()
    found = [Group(f"{where}.headGroupSpec", _get(manifest, f"{where}.headGroupSpec") or {}, port)]
    return found + [Group(f"{where}.workerGroupSpecs.{number}", one, port) for number, one in enumerate(workers)]


def changes(manifest: YAML, config: ServeConfig, application: Application) -> Iterator[Row]:
    """Say what goes wrong when this RayService, with our application, is installed, upgraded or drained."""
    _, *workers = every = groups(manifest, config.http_options.port)
    yield from _switch(manifest, workers)
    if "ray.io/initializing-timeout" in (_get(manifest, "metadata.annotations") or {}):
        said = "when a first start takes longer, KubeRay deletes the cluster and never tries again"
        yield "metadata.annotations", said, "Remove ray.io/initializing-timeout"
    for group in every:
        models = dict.fromkeys(one.model.name for one in application.settings.each_model().values())
        yield from _weights(group, [one for one in models if one.startswith("/")])
    ingress = _deployment(application, INGRESS_DEPLOYMENT)
    if any(group.answers for group in workers):
        yield from _one_a_pod(ingress, application.settings.ingress, [group for group in workers if group.answers])
    for group in workers:
        engines = [_deployment(application, name) for name in engine_deployments(application.settings)]
        yield from _spread(group)
        yield from _drain(group, ingress if group.answers else max(engines, key=lambda one: one.drain_s))
        if group.answers:
            yield from _readiness(group, application.settings.limits.notice_s)


def _switch(manifest: YAML, workers: Sequence[Group]) -> Iterator[Row]:
    """Who gets the requests: KubeRay's Service takes every worker of the active cluster that has its port."""
    silent = ", ".join(group.name for group in workers if not group.answers)
    if _get(manifest, "spec.upgradeStrategy.type") == "NewClusterWithIncrementalUpgrade" and silent:
        said = f"it ignores serveService and sends requests to all workers; those of {silent} do not listen"
        yield "spec.upgradeStrategy.type", said, "Give NewCluster"
    ports = _get(manifest, "spec.serveService.spec.ports") or [{}]
    targets = [one.get("targetPort") for one in ports]
    named = all(isinstance(one, str) for one in targets)
    where = "spec.serveService.spec.ports" if _get(manifest, "spec.serveService") else "spec"
    if silent and not named:
        said = f"KubeRay's Service would send requests to all workers; those of {silent} do not listen"
        yield (
            where,
            said,
            "Give spec.serveService a port named serve whose targetPort is a name that only the ingress has",
        )
    for target in (one for one in targets if isinstance(one, str)):
        having = [group for group in workers if target in group.ports]
        if not having or not all(group.answers for group in having):
            said = f"targetPort {target} must be a port of the ingress pods and of no others"
            yield where, said, "Name containerPort by it in their group alone"


def _one_a_pod(ingress: Deployment, settings: IngressConfig, answering: Sequence[Group]) -> Iterator[Row]:
    scaling = ingress.autoscaling_config
    wanted = scaling.max_replicas if scaling else ingress.num_replicas
    room = sum(int(group.spec.get("maxReplicas") or 0) for group in answering)
    if "ray_actor_options" in ingress.model_fields_set and settings != IngressConfig():
        yield _CONFIG, "Ingress has ray_actor_options, which replace args.ingress", "Remove them"
    if settings.one_per_node:
        for group, (name, taken) in itertools.product(answering, settings.resources.items()):
            offered = float((group.spec.get("resources") or {}).get(name, 0))
            if offered < 2 * taken:
                said = (
                    f"a pod offers {offered:g} of {name!r}, and an ingress takes {taken:g}: none starts beside the old"
                )
                yield f"{group.path}.resources", said, f"Give {2 * taken:g}, or lower args.ingress.resources"
    elif ingress.max_replicas_per_node == 1:
        room -= 1  # Serve counts the old one as well
    else:
        said = "several ingress replicas may share a pod, and another pod then answers nobody"
        yield _CONFIG, said, "Give args.ingress.one_per_node: true"
        return
    if isinstance(wanted, int) and wanted > room:
        said = f"{wanted} ingress replicas are wanted, and there is room for {room}: one in a pod"
        if not settings.one_per_node:
            said += ", and a pod for the one that an update starts before it stops the old"
        yield f"{answering[0].path}.maxReplicas", said, f"Give {wanted + (not settings.one_per_node)} or more"


def _readiness(group: Group, notice_s: float) -> Iterator[Row]:
    probe = group.container.get("readinessProbe")
    if not probe:
        return
    where = f"{group.path}.template.spec.containers.0.readinessProbe"
    asked = " ".join(map(str, _get(probe, "exec.command") or [_get(probe, "httpGet.path") or ""]))
    if _ASKS_FOR_AN_ENGINE.search(asked):
        said = "with the last engine every ingress pod leaves the Service, and nobody can wait for the next one"
        yield where, said, "Ask for /-/healthz"
    seconds = [int(probe.get(key, usual)) for key, usual in (("periodSeconds", 10), ("failureThreshold", 3))]
    noticed_s = seconds[0] * seconds[1] + int(probe.get("timeoutSeconds", 1)) + _NEWS_S
    if noticed_s > notice_s:
        said = f"an ingress that leaves gets requests for up to {noticed_s} s, and takes them for {notice_s:g} s"
        yield where, said, f"Give failureThreshold: 1, and args.limits.notice_s of {noticed_s} or more"


def _weights(group: Group, models: Sequence[str]) -> Iterator[Row]:
    """Models from a volume must all be there before Serve looks for them: KubeRay submits but once."""
    mounts: Sequence[YAML] = group.container.get("volumeMounts") or ()
    before: Sequence[YAML] = group.pod.get("initContainers") or ()
    folders = {str(one.get("mountPath")).rstrip("/"): one.get("name") for one in mounts}
    served = {one: volume for one in models for path, volume in folders.items() if one.startswith(f"{path}/")}
    waiting = [
        one for one in before if {mount.get("name") for mount in one.get("volumeMounts") or ()} & {*served.values()}
    ]
    if served and not waiting:
        said = f"nothing waits until {', '.join(served)} is in its volume; without it the application fails, "
        said += "and is not tried again"
        yield f"{group.path}.template.spec", said, "Add an init container that waits for its config.json"
    wanted = sorted(one.rpartition("/")[2] for one in served)
    for variable in (each for one in waiting for each in one.get("env") or () if each.get("name") == "MODEL"):
        if sorted(str(variable.get("value")).split()) != wanted:
            said = f"an init container waits for {variable.get('value')}, and {', '.join(wanted)} is to be served"
            remedy = "Name the same model" if len(wanted) == 1 else "Name the same models, with spaces between"
            yield f"{group.path}.template.spec.initContainers", said, remedy


def _spread(group: Group) -> Iterator[Row]:
    for number, one in enumerate(group.pod.get("topologySpreadConstraints") or ()):
        where = f"{group.path}.template.spec.topologySpreadConstraints.{number}"
        if one.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
            continue
        if _CLUSTER_LABEL not in (one.get("matchLabelKeys") or ()):
            said = "in an upgrade the old cluster's pods count, and the new one's may find no node"
            yield where, said, f"Give matchLabelKeys: [{_CLUSTER_LABEL}]"
        if one.get("nodeTaintsPolicy") != "Honor":
            said = "nodes that take no such pod (GPUs, the control plane) count as nodes without one"
            yield where, said, "Give nodeTaintsPolicy: Honor"


def _drain(group: Group, deployment: Deployment) -> Iterator[Row]:
    """Serve stops a replica its graceful_shutdown_timeout_s before a drain's deadline, successor or not."""
    command = [str(one) for one in _get(group.container, "lifecycle.preStop.exec.command") or ()]
    own_s = float(group.variable(_RAYS_DRAIN) or _RAYS_DRAIN_S)
    given = [float(one) for one in command if one.isdigit()] if any("drain" in one for one in command) else []
    deadline_s = given[0] if given else own_s
    where = f"{group.path}.template.spec"
    least_s = _INGRESS_SUCCESSOR_S if deployment.name == INGRESS_DEPLOYMENT else _ENGINE_SUCCESSOR_S
    if (left_s := deadline_s - deployment.drain_s) < least_s:
        said = f"in a drain of {deadline_s:g} s a successor of {deployment.name} has {max(left_s, 0):g} s to come up"
        remedy = f"Give k8s/drain.sh (preStop), or {_RAYS_DRAIN}, {deployment.drain_s + least_s:g} s or more"
        yield f"{where}.containers.0.lifecycle", said, remedy
    grace_s = group.pod.get("terminationGracePeriodSeconds") or 30
    if grace_s < (ends_s := (given[0] if given else 0) + own_s):
        said = f"a pod is killed after {grace_s} s, and its drains take {ends_s:g} s"
        yield f"{where}.terminationGracePeriodSeconds", said, f"Give more than {ends_s:g}"


def beside(thing: YAML, service: YAML) -> Iterator[Row]:
    """Say what is wrong with another object, as far as it is about the pods of this RayService."""
    every = groups(service, 0)
    match thing.get("kind"):
        case "PodDisruptionBudget":
            selector = _get(thing, "spec.selector") or {}
            yield from _budget(thing, [one for one in every if _matches(selector, one.labels)])
        case "Service":
            selector = _get(thing, "spec.selector") or {}
            selected = [one for one in every if _matches({"matchLabels": selector}, one.labels)]
            if selector and selected and not all(one.is_head for one in selected):
                said = (
                    "in an upgrade it sends requests to the new cluster before it can answer, and to the old one after"
                )
                yield "spec.selector", said, "Remove it, and name KubeRay's own: spec.serveService of the RayService"
        case "Job":
            for container in _get(thing, "spec.template.spec.containers") or ():
                revision = next((one for one in container.get("env") or () if one.get("name") == "REVISION"), None)
                if revision and not re.fullmatch(r"[0-9a-f]{40}( [0-9a-f]{40})*", str(revision.get("value"))):
                    said = f"{revision.get('value')} is no commit, and may be another model tomorrow"
                    yield "spec.template.spec.containers", said, "Give REVISION all 40 characters of one"


def _budget(thing: YAML, selected: Sequence[Group]) -> Iterator[Row]:
    if not selected:
        return
    least = _get(thing, "spec.minAvailable")
    if not isinstance(least, int):
        key = "spec.minAvailable" if least is not None else "spec.maxUnavailable"
        said = "Kubernetes cannot count how many pods a RayCluster should have, and lets none of them be evicted"
        yield key, said, "Give minAvailable as a number"
    elif least and least >= (fewest := sum(one.fewest for one in selected)):
        said = f"{least} must stay, and there may be no more than {fewest}: their nodes cannot be drained"
        yield "spec.minAvailable", said, f"Give at most {max(fewest - 1, 0)}"


def _matches(selector: YAML, labels: Mapping[str, str]) -> bool:
    def holds(one: YAML) -> bool:
        value, values = labels.get(one.get("key", "")), one.get("values") or ()
        match one.get("operator"):
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "NotIn":
                return value not in values
        return value in values

    wanted = selector.get("matchLabels") or {}
    if _CLUSTER_LABEL in wanted:  # of one cluster, by a name that KubeRay makes up
        return False
    fits = all(labels.get(key) == value for key, value in wanted.items())
    return fits and all(holds(one) for one in selector.get("matchExpressions") or ())


def _deployment(application: Application, name: str) -> Deployment:
    return next((one for one in application.deployments if one.name == name), Deployment(name=name))


def _get(value: Any, path: str) -> Any:  # Any: YAML
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
