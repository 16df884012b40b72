"""A RayService manifest and the Serve configuration in it: do the pods offer what the application asks for?

Kubernetes and KubeRay's schema check the form of the manifest; here is what only the two together can get wrong, and
what KubeRay's operator refuses after `kubectl apply` has succeeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from deployments import ENGINE_DEPLOYMENT, IMPORT_PATH
from deployments.checks.document import YAML, Finding, Path
from deployments.checks.rules import GRACEFUL_SHUTDOWN_S
from deployments.http.access import is_loopback
from deployments.http.address import configured_address
from reranker.config import RerankerConfig

_NAME_LENGTH = 47  # KubeRay, validation.go: names it derives must stay below 63
_DELETION_DELAY_S = 60
_TERMINATION_GRACE_S = 30
_CLUSTER: Path = ("spec", "rayClusterConfig")
_GROUPS: Path = (*_CLUSTER, "workerGroupSpecs")


def environment(manifest: YAML) -> frozenset[str]:
    """Variables that every container of the service's pods has."""
    cluster = _get(manifest, *_CLUSTER) or {}
    pods = [cluster.get("headGroupSpec") or {}, *(cluster.get("workerGroupSpecs") or ())]
    return frozenset.intersection(*(frozenset(_variables(group)) for group in pods))


def problems(manifest: YAML, config: YAML) -> Iterator[Finding]:
    """Say where the two do not fit each other, or what the operator would refuse."""
    cluster = _get(manifest, *_CLUSTER) or {}
    workers: Sequence[YAML] = cluster.get("workerGroupSpecs") or ()
    yield from _service(manifest, cluster)
    yield from _address(config)
    offered = frozenset(name for group in (cluster.get("headGroupSpec") or {}, *workers) for name in _resources(group))
    for application in config.get("applications") or ():
        settings = RerankerConfig()
        if application.get("import_path") == IMPORT_PATH:
            settings = RerankerConfig.model_validate(application.get("args") or {})
            yield from _times(manifest, workers, settings)
            if settings.engine.simulated is not None:
                said = "the engines are simulated: the scores mean nothing"
                yield Finding(("spec", "serveConfigV2"), said, "Remove args.engine.simulated")
        for deployment in application.get("deployments") or ():
            yield from _placement(deployment, settings, workers, offered)
            yield from _drain(deployment, workers)
    yield from _buckets(workers)


def _service(manifest: YAML, cluster: YAML) -> Iterator[Finding]:
    name = str(_get(manifest, "metadata", "name") or "")
    if len(name) > _NAME_LENGTH:
        said = f"{len(name)} characters; KubeRay takes at most {_NAME_LENGTH}"
        yield Finding(("metadata", "name"), said, "Shorten it")
    version = str(cluster.get("rayVersion", ""))
    if version != ray.__version__:
        said = f"{version or 'nothing'} is not the Ray that the image has ({ray.__version__})"
        yield Finding((*_CLUSTER, "rayVersion"), said, "KubeRay chooses the probes by it; give the same")
    head = cluster.get("headGroupSpec") or {}
    ports = [port.get("name") for one in _containers(head) for port in one.get("ports") or ()]
    if not any(str(port).startswith("serve") for port in ports):
        said = "the head has no port named serve, and KubeRay then makes no service for clients"
        yield Finding((*_CLUSTER, "headGroupSpec"), said, "Add {name: serve, containerPort: 8000}")
    if str(_get(head, "rayStartParams", "num-cpus")) != "0":
        said = "work may be placed on the head, beside Serve's controller"
        yield Finding((*_CLUSTER, "headGroupSpec", "rayStartParams"), said, 'Give num-cpus: "0"')


def _address(config: YAML) -> Iterator[Finding]:
    place: Path = ("spec", "serveConfigV2")
    if is_loopback(host := configured_address(config)[0]):
        yield Finding(place, f"http_options.host is {host}, which no other pod reaches", "Give 0.0.0.0")


def _times(manifest: YAML, workers: Sequence[YAML], settings: RerankerConfig) -> Iterator[Finding]:
    longest_s = settings.limits.timeout_s
    delay_s = _get(manifest, "spec", "rayClusterDeletionDelaySeconds") or _DELETION_DELAY_S
    if delay_s < longest_s:
        said = f"an upgrade removes the old cluster after {delay_s} s, and a request may take {longest_s:g} s"
        yield Finding(("spec", "rayClusterDeletionDelaySeconds"), said, f"Give more than {longest_s:g}")


def _drain(deployment: YAML, workers: Sequence[YAML]) -> Iterator[Finding]:
    drain_s = deployment.get("graceful_shutdown_timeout_s") or GRACEFUL_SHUTDOWN_S
    for number, group in enumerate(workers):
        grace_s = _get(group, "template", "spec", "terminationGracePeriodSeconds") or _TERMINATION_GRACE_S
        if grace_s < drain_s:
            yield Finding(
                (*_GROUPS, number, "template", "spec", "terminationGracePeriodSeconds"),
                f"a pod is killed after {grace_s} s, and {deployment['name']} may drain for {drain_s:g} s",
                f"Give more than {drain_s:g}",
            )


def _placement(
    deployment: YAML, settings: RerankerConfig, workers: Sequence[YAML], offered: frozenset[str]
) -> Iterator[Finding]:
    options = deployment.get("ray_actor_options") or {}
    place: Path = ("spec", "serveConfigV2")
    for name in options.get("resources") or {}:
        if name not in offered:
            said = f"{deployment['name']} asks for the resource {name!r}, which no group of pods has"
            yield Finding(place, said, f"Add it to a group's `resources`, which have {', '.join(offered) or 'none'}")
    if deployment["name"] != ENGINE_DEPLOYMENT or settings.engine.device == "cpu" or settings.engine.simulated:
        return
    gpus = options.get("num_gpus") or settings.engine.tensor_parallel_size
    per_pod = [_gpus(group) for group in workers]
    if gpus > max(per_pod, default=0):
        said = f"a replica takes {gpus:g} GPUs, and no pod has more than {max(per_pod, default=0):g}"
        yield Finding(place, said, "Give a worker group so many nvidia.com/gpu, or lower tensor_parallel_size")
        return
    scaling = deployment.get("autoscaling_config") or {}
    wanted = scaling.get("max_replicas") or deployment.get("num_replicas") or 1
    room = sum(
        int(count // gpus) * int(group.get("maxReplicas") or group.get("replicas") or 0)
        for count, group in zip(per_pod, workers, strict=True)
    )
    if wanted != "auto" and wanted > room:
        said = f"up to {wanted} engine replicas are wanted, and the worker groups have room for {room}"
        yield Finding(_GROUPS, said, "Raise maxReplicas of the GPU group, or lower max_replicas")


def _buckets(workers: Sequence[YAML]) -> Iterator[Finding]:
    """Histograms are added up over all pods; with different buckets the sum means nothing."""
    for name in sorted({name for group in workers for name in _variables(group) if name.endswith("_BUCKETS_MS")}):
        values = [_variables(group).get(name) for group in workers]
        for number, value in enumerate(values):
            if value != values[0]:
                said = f"{name} is {value!r}, and {values[0]!r} in the first group: histograms cannot be added"
                yield Finding((*_GROUPS, number), said, "Give all groups the same")


def _containers(group: YAML) -> Sequence[YAML]:
    containers: Sequence[YAML] = _get(group, "template", "spec", "containers") or ()
    return containers


def _variables(group: YAML) -> dict[str, Any]:
    return {one["name"]: one.get("value") for container in _containers(group) for one in container.get("env") or ()}


def _resources(group: YAML) -> list[str]:
    """Names of the resources that a group of pods offers, in either of the two places where they may stand."""
    named = list(group.get("resources") or {})
    started = _get(group, "rayStartParams", "resources")
    try:
        return named + list(json.loads(json.loads(started)))  # JSON, quoted once more for the shell
    except (TypeError, ValueError):
        return named


def _gpus(group: YAML) -> float:
    counts = [_get(container, "resources", "limits", "nvidia.com/gpu") for container in _containers(group)]
    return float(max((int(count) for count in counts if count), default=0))


def _get(value: Any, *path: str | int) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
