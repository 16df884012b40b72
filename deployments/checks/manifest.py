"""A RayService manifest and the Serve configuration in it: do the pods offer what the application asks for?

Kubernetes and KubeRay's schema check the form of the manifest; here is what only the two together can get wrong, and
what KubeRay's operator refuses after `kubectl apply` has succeeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from deployments import IMPORT_PATH, INGRESS_DEPLOYMENT
from deployments.checks import kubernetes
from deployments.checks.document import YAML, Row
from deployments.checks.schema import Application, ServeConfig, engine_gpus
from deployments.http.access import is_loopback

_NAME_LENGTH = 47  # KubeRay, validation.go: names it derives must stay below 63
_DELETION_DELAY_S = 60
_TERMINATION_GRACE_S = 30
_CONFIG = "spec.serveConfigV2"
_CLUSTER = "spec.rayClusterConfig"
_GROUPS = f"{_CLUSTER}.workerGroupSpecs"
_GRACE = "template.spec.terminationGracePeriodSeconds"


def environment(manifest: YAML) -> frozenset[str]:
    """Variables that every container of the service's pods has."""
    return frozenset.intersection(*(frozenset(_variables(group)) for group in _groups(manifest)))


def problems(manifest: YAML, config: ServeConfig) -> Iterator[Row]:
    """Say where the two do not fit each other, or what the operator would refuse."""
    head, *workers = _groups(manifest)
    yield from _service(manifest, head)
    if is_loopback(host := config.http_options.host):
        yield _CONFIG, f"http_options.host is {host}, which no other pod reaches", "Give 0.0.0.0"
    offered = {name: None for group in (head, *workers) for name in _resources(group)}
    for application in config.applications:
        settings = application.settings
        if application.import_path == IMPORT_PATH:
            longest_s = settings.limits.timeout_s
            delay_s = _get(manifest, "spec.rayClusterDeletionDelaySeconds") or _DELETION_DELAY_S
            if delay_s < longest_s:
                said = f"an upgrade removes the old cluster after {delay_s} s, and a request may take {longest_s:g} s"
                yield "spec.rayClusterDeletionDelaySeconds", said, f"Give more than {longest_s:g}"
            yield from kubernetes.changes(manifest, config, application)
            if any(one.engine.simulated is not None for one in settings.each_model().values()):
                said = "the engines are simulated: the scores mean nothing"
                yield _CONFIG, said, "Remove args.engine.simulated"
            yield from _room(application, workers)
        for deployment in application.deployments:
            asked = set(deployment.ray_actor_options.resources)
            if deployment.name == INGRESS_DEPLOYMENT:
                asked |= set(settings.ingress.resources)
            for name in sorted(asked - offered.keys()):
                said = f"{deployment.name} asks for the resource {name!r}, which no group of pods has"
                remedy = f"Add it to a group's `resources`, which have {', '.join(offered) or 'none'}"
                yield _CONFIG, said, remedy
            for number, group in enumerate(workers):
                grace_s, drain_s = _get(group, _GRACE) or _TERMINATION_GRACE_S, deployment.drain_s
                if grace_s < drain_s:
                    said = f"a pod is killed after {grace_s} s, and {deployment.name} may drain for {drain_s:g} s"
                    yield f"{_GROUPS}.{number}.{_GRACE}", said, f"Give more than {drain_s:g}"
    yield from _buckets(workers)


def _service(manifest: YAML, head: YAML) -> Iterator[Row]:
    name, version = (str(_get(manifest, path) or "") for path in ("metadata.name", f"{_CLUSTER}.rayVersion"))
    if len(name) > _NAME_LENGTH:
        yield "metadata.name", f"{len(name)} characters; KubeRay takes at most {_NAME_LENGTH}", "Shorten it"
    if version != ray.__version__:
        said = f"{version or 'nothing'} is not the Ray that the image has ({ray.__version__})"
        yield f"{_CLUSTER}.rayVersion", said, "KubeRay chooses the probes by it; give the same"
    ports = [port.get("name") for one in _containers(head) for port in one.get("ports") or ()]
    if not any(str(port).startswith("serve") for port in ports):
        said = "the head has no port named serve, and KubeRay then makes no service for clients"
        yield f"{_CLUSTER}.headGroupSpec", said, "Add {name: serve, containerPort: 8000}"
    if str(_get(head, "rayStartParams.num-cpus")) != "0":
        said = "work may be placed on the head, beside Serve's controller"
        yield f"{_CLUSTER}.headGroupSpec.rayStartParams", said, 'Give num-cpus: "0"'


def _room(application: Application, workers: Sequence[YAML]) -> Iterator[Row]:
    """GPUs: for one replica of each model in one pod, and for all replicas of all models that may be wanted."""
    per_pod = {number: _gpus(group) for number, group in enumerate(workers)}
    pods = {number: int(group.get("maxReplicas") or group.get("replicas") or 0) for number, group in enumerate(workers)}
    free: list[float] = [per_pod[number] for number, count in pods.items() for _ in range(count)]
    wanted_in_all, room, shared = 0, 0, []
    for deployment, gpus, _, wanted in sorted(engine_gpus(application), key=lambda one: -one.per_replica):
        if gpus > max(per_pod.values(), default=0):
            said = f"a replica takes {gpus:g} GPUs, and no pod has more than {max(per_pod.values(), default=0):g}"
            yield _CONFIG, said, "Give a worker group so many nvidia.com/gpu, or lower tensor_parallel_size"
            return
        wanted_in_all += wanted
        shared.append(f"{wanted} of {deployment}")
        for _ in range(wanted):  # the largest first, each where it fits
            place = next((number for number, left in enumerate(free) if left >= gpus), None)
            if place is not None:
                free[place] -= gpus
                room += 1
    if wanted_in_all > room:
        of = f" ({', '.join(shared)})" if len(shared) > 1 else ""
        said = f"up to {wanted_in_all} engine replicas are wanted{of}, and the worker groups have room for {room}"
        yield _GROUPS, said, "Raise maxReplicas of the GPU group, or lower max_replicas"


def _buckets(workers: Sequence[YAML]) -> Iterator[Row]:
    """Histograms are added up over all pods; with different buckets the sum means nothing."""
    for name in sorted({name for group in workers for name in _variables(group) if name.endswith("_BUCKETS_MS")}):
        values = [_variables(group).get(name) for group in workers]
        for number, value in enumerate(values):
            if value != values[0]:
                said = f"{name} is {value!r}, and {values[0]!r} in the first group: histograms cannot be added"
                yield f"{_GROUPS}.{number}", said, "Give all groups the same"


def _groups(manifest: YAML) -> list[YAML]:
    """The head, and the groups of workers."""
    return [_get(manifest, f"{_CLUSTER}.headGroupSpec") or {}, *(_get(manifest, _GROUPS) or ())]


def _containers(group: YAML) -> Sequence[YAML]:
    containers: Sequence[YAML] = _get(group, "template.spec.containers") or ()
    return containers


def _variables(group: YAML) -> dict[str, Any]:
    return {one["name"]: one.get("value") for container in _containers(group) for one in container.get("env") or ()}


def _resources(group: YAML) -> list[str]:
    """Names of the resources that a group of pods offers, in either of the two places where they may stand."""
    named = list(group.get("resources") or {})
    try:  # JSON, quoted once more for the shell
        return named + list(json.loads(json.loads(_get(group, "rayStartParams.resources"))))
    except (TypeError, ValueError):
        return named


def _gpus(group: YAML) -> int:
    limits: list[YAML] = [_get(container, "resources.limits") or {} for container in _containers(group)]
    return max((int(limit.get("nvidia.com/gpu") or 0) for limit in limits), default=0)


def _get(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
