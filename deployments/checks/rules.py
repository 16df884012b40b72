"""Settings that contradict each other, or what our application needs: each is legal alone, and Ray takes them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from deployments import (
    ENGINE_DEPLOYMENT,
    IMPORT_PATH,
    INGRESS_DEPLOYMENT,
    UI_DEPLOYMENT,
    UI_IMPORT_PATH,
)
from deployments.checks import engine_args, scaling
from deployments.checks.finding import YAML, Finding, value_of
from deployments.checks.marked_yaml import Path
from deployments.http.address import configured_address
from deployments.http.keys import ENVIRONMENT, is_loopback
from reranker.config import RerankerConfig

GRACEFUL_SHUTDOWN_S = 20.0
"""Ray's default."""
_ROUTER = "deployments.router:ShardRouter"
_SERVE_FLAGS = (
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
    "RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE",
)
"""What deployments/app.py gives every replica."""
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
    yield from scaling.problems(deployment, path)
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
        if scaling.by_requests(deployment):
            yield Finding(
                (*place, "autoscaling_config"),
                "Ray's own rule counts requests, of which Serve sees none here, so that it never scales up",
                f"Give policy: {{policy_function: {scaling.POLICY}}} (docs/scaling.md)",
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
    yield from scaling.target(settings, *deployments.get(ENGINE_DEPLOYMENT, ({}, path)))
    yield from _limits(settings, path)
    yield from engine_args.problems(settings, (*path, "args"))
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


def _limits(settings: RerankerConfig, path: Path) -> Iterator[Finding]:
    limits, documents, args = settings.limits, settings.long_documents, (*path, "args")
    if settings.admission.max_queue_s > limits.timeout_s:
        yield Finding(
            (*args, "admission", "max_queue_s"),
            f"lists may queue {settings.admission.max_queue_s:g} s, and are given up after {limits.timeout_s:g} s",
            "Lower it below args.limits.timeout_s",
        )
    if settings.admission.max_tokens_in_flight < settings.model.max_pair_tokens:
        yield Finding(
            (*args, "admission", "max_tokens_in_flight"),
            f"not even one document of {settings.model.max_pair_tokens} tokens (args.model.max_pair_tokens) fits",
            "Raise it: a whole list must fit",
        )
    if limits.max_documents > limits.max_json_values:
        said = f"{limits.max_documents} documents have more than {limits.max_json_values} values (max_json_values)"
        yield Finding((*args, "limits", "max_documents"), said, "Raise max_json_values above it")
    window = documents.window_tokens
    if window is not None and documents.overlap_tokens * 2 >= window:
        yield Finding(
            (*args, "long_documents", "overlap_tokens"),
            f"an overlap of {documents.overlap_tokens} tokens is not less than half a window ({window})",
            "Lower it, or raise window_tokens",
        )
    if window is not None and window > settings.model.max_pair_tokens:
        said = f"a window of {window} tokens does not fit a prompt of {settings.model.max_pair_tokens}"
        yield Finding((*args, "long_documents", "window_tokens"), said, "Lower it below args.model.max_pair_tokens")


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
