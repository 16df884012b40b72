"""Settings that contradict each other, or what our application needs: each is legal alone, and Ray takes them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from deployments import (
    ENGINE_DEPLOYMENT,
    IMPORT_PATH,
    INGRESS_DEPLOYMENT,
    UI_IMPORT_PATH,
)
from deployments.checks.document import YAML, Finding, Path, value_of
from deployments.checks.schema import unknown_engine_arguments
from deployments.http.access import ENVIRONMENT, is_loopback
from deployments.http.address import configured_address
from deployments.http.playground import UI_DEPLOYMENT
from reranker.config import RerankerConfig, ScalingConfig

GRACEFUL_SHUTDOWN_S = 20.0
"""Ray's default."""
_ROUTER = "deployments.router:ShardRouter"
_SERVE_FLAGS = (
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
    "RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE",
)
"""What deployments/app.py gives every replica."""
_LOOK_BACK_S, _METRICS_INTERVAL_S = 30.0, 10.0  # Ray's defaults, of what a deployment does not say
POLICY = "deployments.autoscaling:QueueTime"
_RAY_POLICY = "ray.serve.autoscaling_policy:default_autoscaling_policy"
_FRESH_S = 5.0
_OF_RAYS_RULE = (
    "target_ongoing_requests",
    "upscaling_factor",
    "downscaling_factor",
    "upscale_smoothing_factor",
    "downscale_smoothing_factor",
    "smoothing_factor",
    "downscale_to_zero_delay_s",
)
"""What only Ray's own policy reads."""
_BUSY_S = 10.0
"""A health check waits for a step of the engine, which may take seconds."""


def problems(config: YAML, variables: frozenset[str]) -> Iterator[Finding]:
    """Say what contradicts.

    Args:
        config: A Serve configuration of the right form.
        variables: Names of the environment variables that the service will have.
    """
    ours = False
    for place, application in enumerate(config["applications"]):
        path: Path = ("applications", place)
        yield from _twice(application, path)
        for number, deployment in enumerate(application.get("deployments") or ()):
            yield from _deployment(deployment, (*path, "deployments", number))
        if application.get("import_path") == IMPORT_PATH:
            ours = True
            yield from _ours(config, application, path, variables)
        if application.get("import_path") == UI_IMPORT_PATH:
            yield from _playground(application, path)
    yield from _buckets(config)
    if ours:
        yield from _address(config)


def _twice(application: YAML, path: Path) -> Iterator[Finding]:
    names = Counter(deployment["name"] for deployment in application.get("deployments") or ())
    for number, deployment in enumerate(application.get("deployments") or ()):
        if names[deployment["name"]] > 1:
            name = deployment["name"]
            yield Finding((*path, "deployments", number, "name"), f"{name} is listed twice", "Join the two entries")


def _deployment(deployment: YAML, path: Path) -> Iterator[Finding]:
    yield from _scaling(deployment, path)
    gpus = (deployment.get("ray_actor_options") or {}).get("num_gpus") or 0
    options = (*path, "ray_actor_options", "num_gpus")
    if gpus > 1 and gpus != int(gpus):
        yield Finding(options, f"{gpus:g} GPUs: Ray gives whole ones, or one part of one", "Give a whole number")
    elif 0.5 < gpus < 1:
        yield Finding(
            options, f"{gpus:g} of a GPU: no second replica fits on it, and the rest is lost", "Give 1, or at most 0.5"
        )


def _ours(config: YAML, application: YAML, path: Path, variables: frozenset[str]) -> Iterator[Finding]:
    settings = RerankerConfig.model_validate(application.get("args") or {})
    deployments: dict[str, tuple[YAML, Path]] = {}
    for number, deployment in enumerate(application.get("deployments") or ()):
        place = (*path, "deployments", number)
        deployments[deployment["name"]] = deployment, place
        if deployment["name"] not in (INGRESS_DEPLOYMENT, ENGINE_DEPLOYMENT):
            known = f"Ours are {INGRESS_DEPLOYMENT} and {ENGINE_DEPLOYMENT}"
            yield Finding((*place, "name"), f"the application has no deployment {deployment['name']}", known)
        if deployment.get("user_config") is not None:
            yield Finding((*place, "user_config"), "no deployment of ours takes it", "Use the application's args")
        if deployment.get("ray_actor_options") is not None:
            yield from _replaced_options(deployment, settings, place)
        if _scaled_by_requests(deployment):
            yield Finding(
                (*place, "autoscaling_config"),
                "Ray's own rule counts requests, of which Serve sees none here, so that it never scales up",
                f"Give policy: {{policy_function: {POLICY}}} (docs/scaling.md)",
            )
    yield from _engine(settings, *deployments.get(ENGINE_DEPLOYMENT, ({}, path)))
    ingress, place = deployments.get(INGRESS_DEPLOYMENT, ({}, path))
    drain_s, longest_s = (
        value_of(ingress, "graceful_shutdown_timeout_s", GRACEFUL_SHUTDOWN_S),
        settings.limits.timeout_s,
    )
    if drain_s < longest_s:
        yield Finding(
            (*place, "graceful_shutdown_timeout_s"),
            f"an ingress that stops waits {drain_s:g} s for its requests, which may take {longest_s:g} s",
            f"Give at least {longest_s:g} (args.limits.timeout_s)",
        )
    yield from _scaling_target(settings, *deployments.get(ENGINE_DEPLOYMENT, ({}, path)))
    yield from unknown_engine_arguments(settings, (*path, "args"))
    host = configured_address(config)[0]
    if not (
        is_loopback(host) or settings.access.keys_file or settings.access.allow_anonymous or ENVIRONMENT in variables
    ):
        yield Finding(
            ("http_options", "host"),
            f"{host} can be reached from other machines, and there are no API keys: the service refuses to start",
            f"Set args.access.keys_file, or {ENVIRONMENT} in the environment (docs/keys.md)",
        )


def _playground(application: YAML, path: Path) -> Iterator[Finding]:
    for number, deployment in enumerate(application.get("deployments") or ()):
        place = (*path, "deployments", number)
        if deployment["name"] != UI_DEPLOYMENT:
            said = f"the playground has no deployment {deployment['name']}"
            yield Finding((*place, "name"), said, f"Its only one is {UI_DEPLOYMENT}")
        for key in ("num_replicas", "autoscaling_config"):
            if deployment.get(key) not in (None, 1):
                said = "an open page is known to one replica only, and would ask the others in vain"
                yield Finding((*place, key), said, "Remove it: the playground is one replica")


def _replaced_options(deployment: YAML, settings: RerankerConfig, path: Path) -> Iterator[Finding]:
    options, place = deployment["ray_actor_options"], (*path, "ray_actor_options")
    if missing := [name for name in _SERVE_FLAGS if name not in variables_of(options)]:
        yield Finding(
            (*place, "runtime_env"),
            "ray_actor_options replace all that the application sets, its environment variables, too",
            f'Repeat them: runtime_env.env_vars with {", ".join(missing)}, each "0"',
        )
    if deployment["name"] != ENGINE_DEPLOYMENT or settings.engine.simulated is not None:
        return
    gpus, share = options.get("num_gpus") or 0, settings.engine.gpu_memory_utilization
    parallel, place = settings.engine.tensor_parallel_size, (*place, "num_gpus")
    if settings.engine.device == "cpu":
        if gpus:
            yield Finding(place, "args.engine.device is cpu, and a GPU would stand idle", "Remove num_gpus")
    elif not gpus:
        said = "ray_actor_options replace all that the application sets, and no GPU is left"
        yield Finding(place, said, f"Give num_gpus: {parallel}")
    elif gpus < 1 and parallel == 1 and share > gpus:
        yield Finding(
            place,
            f"a replica has {gpus:g} of a GPU, and takes {share:g} of its memory (args.engine.gpu_memory_utilization)",
            f"Set gpu_memory_utilization below {gpus:g}",
        )
    elif gpus != parallel and not (gpus < 1 and parallel == 1):
        said = f"a replica has {gpus:g} GPUs, and its model is spread over {parallel} (engine.tensor_parallel_size)"
        yield Finding(place, said, "Give both the same number")


def _engine(settings: RerankerConfig, deployment: YAML, path: Path) -> Iterator[Finding]:
    router = deployment.get("request_router_config")
    if router is not None and router.get("request_router_class") != _ROUTER:
        yield Finding(
            (*path, "request_router_config"),
            "this replaces the router that spreads a list over the replicas",
            f"Remove it, or give request_router_class: {_ROUTER}",
        )
    if deployment.get("max_queued_requests", -1) != -1:
        yield Finding(
            (*path, "max_queued_requests"),
            "shards of a list that was let in would be refused",
            "Remove it: lists are refused as a whole, by args.admission",
        )
    if value_of(deployment, "health_check_timeout_s", 30.0) < _BUSY_S:
        said = "a busy engine answers a health check between two steps, and would be killed for it"
        yield Finding((*path, "health_check_timeout_s"), said, f"Give at least {_BUSY_S:g}")


def _scaling(deployment: YAML, path: Path) -> Iterator[Finding]:
    """Settings of autoscaling that contradict each other, or what the policy needs."""
    scaling, path = deployment.get("autoscaling_config"), (*path, "autoscaling_config")
    if scaling is None:
        return
    if _is_ours(scaling):
        yield from _policy(scaling, path)
    look_back_s = value_of(scaling, "look_back_period_s", _LOOK_BACK_S)
    interval_s = value_of(scaling, "metrics_interval_s", _METRICS_INTERVAL_S)
    if look_back_s <= interval_s:
        yield Finding(
            (*path, "look_back_period_s"),
            f"looks back {look_back_s:g} s, and figures come every {interval_s:g} s",
            "Look back longer than metrics_interval_s",
        )


def _scaling_target(settings: RerankerConfig, deployment: YAML, path: Path) -> Iterator[Finding]:
    """Lists must not be refused before replicas are added."""
    scaling = deployment.get("autoscaling_config") or {}
    if not _is_ours(scaling):
        return
    kwargs = scaling["policy"].get("policy_kwargs") or {}
    if kwargs.get("target_queue_s", ScalingConfig().target_queue_s) >= settings.admission.max_queue_s:
        yield Finding(
            (*path, "autoscaling_config", "policy", "policy_kwargs", "target_queue_s"),
            f"lists are refused at {settings.admission.max_queue_s:g} s of queue, before replicas are added",
            "Lower it below args.admission.max_queue_s",
        )


def _scaled_by_requests(deployment: YAML) -> bool:
    """Whether it is scaled by Ray's own rule, which counts requests that Serve sees."""
    scaling = deployment.get("autoscaling_config")
    if scaling is None:
        return False
    policy = (scaling.get("policy") or {}).get("policy_function", _RAY_POLICY)
    return bool(policy in (_RAY_POLICY, _RAY_POLICY.replace(":", ".")))


def _is_ours(scaling: YAML) -> bool:
    return bool((scaling.get("policy") or {}).get("policy_function") == POLICY)


def _policy(scaling: YAML, path: Path) -> Iterator[Finding]:
    try:
        ScalingConfig.model_validate(scaling["policy"].get("policy_kwargs") or {})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            known = f"Known are {', '.join(ScalingConfig.model_fields)} (docs/configuration.md)"
            yield Finding((*path, "policy", "policy_kwargs", *problem["loc"]), problem["msg"], known)
    for delay, default_s in (("upscale_delay_s", 30.0), ("downscale_delay_s", 600.0)):
        if value_of(scaling, delay, default_s):
            said = f"Serve would wait {value_of(scaling, delay, default_s):g} s more; the policy waits by itself"
            yield Finding((*path, delay), said, f"Give {delay}: 0")
    for key in _OF_RAYS_RULE:
        if scaling.get(key) is not None:
            said = "only Ray's own rule reads it, not this policy"
            yield Finding((*path, key), said, "Remove it, or set the policy's own (docs/scaling.md)")
    interval_s = value_of(scaling, "metrics_interval_s", _METRICS_INTERVAL_S)
    if interval_s > _FRESH_S:
        said = f"the policy hears of a queue {interval_s:g} s late"
        yield Finding((*path, "metrics_interval_s"), said, "Give metrics_interval_s: 1")


def _buckets(config: YAML) -> Iterator[Finding]:
    """Histograms of one name must have the same buckets in every process of a node, or Ray drops the later one's."""
    common = variables_of(config.get("controller_options"))
    for place, application in enumerate(config["applications"]):
        path: Path = ("applications", place)
        groups = [(path, variables_of(application))]
        for number, deployment in enumerate(application.get("deployments") or ()):
            options = deployment.get("ray_actor_options")
            groups.append(((*path, "deployments", number, "ray_actor_options"), variables_of(options)))
        for where, variables in groups:
            for name, value in variables.items():
                if name.endswith("_BUCKETS_MS") and common.get(name) != value:
                    yield Finding(
                        (*where, "runtime_env", "env_vars", name),
                        "processes of one node would have different buckets, and Ray drops what the later one measures",
                        "Set it in controller_options as well, or for the whole pod",
                    )


def _address(config: YAML) -> Iterator[Finding]:
    port = configured_address(config)[1]
    if not 0 < port < 65_536:
        yield Finding(("http_options", "port"), f"there is no port {port}", "Give one from 1024 to 65535")
    for place, application in enumerate(config["applications"]):
        if application.get("import_path") == IMPORT_PATH and application.get("route_prefix", "/") != "/":
            said = "it is an option of Serve's proxy, which is not there: the ingress answers on its own paths"
            yield Finding(("applications", place, "route_prefix"), said, "Remove it, and add the prefix in a gateway")
    location = config.get("proxy_location", "EveryNode")
    if location != "Disabled":
        yield Finding(
            ("proxy_location",),
            f"with {location} Serve's proxy takes the port on which the ingress itself listens",
            "Give Disabled (docs/decisions/0006-no-proxy.md)",
        )
    if (config.get("http_options") or {}).get("request_timeout_s") is not None:
        said = "it is an option of Serve's proxy, which is not there"
        yield Finding(("http_options", "request_timeout_s"), said, "Use args.limits.timeout_s")


def variables_of(options: YAML | None) -> dict[str, Any]:
    """Environment variables that a `runtime_env` sets."""
    return dict(((options or {}).get("runtime_env") or {}).get("env_vars") or {})
