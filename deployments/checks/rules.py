"""Settings that contradict each other, or what our application needs: each is legal alone, and Ray takes them all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig

from deployments import IMPORT_PATH, INGRESS_DEPLOYMENT, SERVE_FLAGS, UI_IMPORT_PATH, engine_deployments
from deployments.checks.document import Finding, Row, below
from deployments.checks.schema import Application, Deployment, ServeConfig, unknown_engine_arguments
from deployments.http.access import ENVIRONMENT, is_loopback
from deployments.http.playground import UI_DEPLOYMENT
from reranker.config import RerankerConfig, ScalingConfig
from reranker.engine.cards import CLASSES

_ROUTER = "deployments.router:ShardRouter"
_POLICY = "deployments.autoscaling:QueueTime"
_RAY_POLICY = "ray.serve.autoscaling_policy:default_autoscaling_policy"
_FRESH_S = 5.0
_OF_RAYS_RULE = {"target_ongoing_requests", "downscale_to_zero_delay_s"} | {
    key for key in AutoscalingConfig.model_fields if key.endswith("factor")
}
"""What only Ray's own policy reads."""
_OF_SERVES_QUEUE = {"max_ongoing_requests", "max_queued_requests", "backpressure_config"}
_BUSY_S = 10.0
"""A health check waits for a step of the engine, which may take seconds."""


def problems(config: ServeConfig, variables: Collection[str]) -> Iterator[Finding]:
    """Say what contradicts. `variables` are names of environment variables that the service will have."""
    for place, application in enumerate(config.applications):
        yield from below(("applications", place), _application(application))
        if application.import_path == IMPORT_PATH:
            yield from below((), _server(config, application.settings, place, variables))
    yield from below((), _buckets(config))


def _application(application: Application) -> Iterator[Row]:
    deployments, names = application.deployments, Counter(one.name for one in application.deployments)
    ours = application.import_path == IMPORT_PATH
    if ours:
        yield from unknown_engine_arguments(application.settings)
        if INGRESS_DEPLOYMENT not in names:
            deployments = [*deployments, Deployment(name=INGRESS_DEPLOYMENT)]
    for number, deployment in enumerate(deployments):
        rows = [*_deployment(deployment)]
        if names[deployment.name] > 1:
            rows.append(("name", f"{deployment.name} is listed twice", "Join the two entries"))
        if ours:
            rows += _ours(deployment, application.settings)
        elif application.import_path == UI_IMPORT_PATH:
            rows += _playground(deployment)
        for place, problem, remedy in rows:
            yield f"deployments.{number}.{place}", problem, remedy


def _deployment(deployment: Deployment) -> Iterator[Row]:
    gpus = deployment.ray_actor_options.num_gpus or 0
    if gpus > 1 and gpus != int(gpus):
        said = f"{gpus:g} GPUs: Ray gives whole ones, or one part of one"
        yield "ray_actor_options.num_gpus", said, "Give a whole number"
    elif 0.5 < gpus < 1:
        said = f"{gpus:g} of a GPU: no second replica fits on it, and the rest is lost"
        yield "ray_actor_options.num_gpus", said, "Give 1, or at most 0.5"
    scaling = deployment.autoscaling_config
    if scaling is not None and scaling.look_back_period_s <= scaling.metrics_interval_s:
        said = f"looks back {scaling.look_back_period_s:g} s, and figures come every {scaling.metrics_interval_s:g} s"
        yield "autoscaling_config.look_back_period_s", said, "Look back longer than metrics_interval_s"


def _ours(deployment: Deployment, settings: RerankerConfig) -> Iterator[Row]:
    engines = engine_deployments(settings)
    if deployment.name not in (INGRESS_DEPLOYMENT, *engines):
        *most, last = INGRESS_DEPLOYMENT, *engines
        known = f"Ours are {', '.join(most)} and {last}"
        yield "name", f"the application has no deployment {deployment.name}", known
    if "user_config" in deployment.model_fields_set and deployment.user_config is not None:
        yield "user_config", "no deployment of ours takes it", "Use the application's args"
    for key in _OF_SERVES_QUEUE & deployment.model_fields_set:
        if getattr(deployment, key) != Deployment.model_fields[key].default:
            said = "no list passes the queue of Serve that it limits"
            yield key, said, "Remove it: lists are refused as a whole, by args.admission"
    if "ray_actor_options" in deployment.model_fields_set:
        yield from _replaced_options(deployment, engines.get(deployment.name))
    yield from _scaling(deployment, settings)
    if deployment.name == INGRESS_DEPLOYMENT:
        yield from _ingress(deployment, settings)
    if deployment.name in engines:
        yield from _engine(deployment)


def _ingress(deployment: Deployment, settings: RerankerConfig) -> Iterator[Row]:
    limits, drain_s = settings.limits, deployment.drain_s
    if drain_s < (longest_s := limits.notice_s + limits.timeout_s):
        said = f"an ingress that stops waits {drain_s:g} s for its requests, which may take {longest_s:g} s"
        yield "graceful_shutdown_timeout_s", said, f"Give at least {longest_s:g} (args.limits: notice_s + timeout_s)"


def _engine(deployment: Deployment) -> Iterator[Row]:
    given = deployment.model_fields_set
    if "request_router_config" in given and deployment.request_router_config.request_router_class != _ROUTER:
        said = "this replaces the router that spreads a list over the replicas"
        yield "request_router_config", said, f"Remove it, or give request_router_class: {_ROUTER}"
    if "health_check_timeout_s" in given and deployment.health_check_timeout_s < _BUSY_S:
        said = "a busy engine answers a health check between two steps, and would be killed for it"
        yield "health_check_timeout_s", said, f"Give at least {_BUSY_S:g}"


def _playground(deployment: Deployment) -> Iterator[Row]:
    if deployment.name != UI_DEPLOYMENT:
        said = f"the playground has no deployment {deployment.name}"
        yield "name", said, f"Its only one is {UI_DEPLOYMENT}"
    for key in {"num_replicas", "autoscaling_config"} & deployment.model_fields_set:
        if getattr(deployment, key) not in (None, 1):
            said = "an open page is known to one replica only, and would ask the others in vain"
            yield key, said, "Remove it: the playground is one replica"


def _replaced_options(deployment: Deployment, settings: RerankerConfig | None) -> Iterator[Row]:
    """`settings` are those of the engine deployment's model. None: it is none."""
    options = deployment.ray_actor_options
    if missing := [name for name in SERVE_FLAGS if name not in _variables(options.runtime_env)]:
        said = "ray_actor_options replace all that the application sets, its environment variables, too"
        remedy = f'Repeat them: runtime_env.env_vars with {", ".join(missing)}, each "0"'
        yield "ray_actor_options.runtime_env", said, remedy
    if settings is None or settings.engine.simulated is not None:
        return
    engine = settings.engine
    gpus, parallel = options.num_gpus or 0, engine.tensor_parallel_size
    share = engine.gpu_memory_utilization or max(one.settings.gpu_memory_utilization for one in CLASSES)
    said = remedy = ""
    if engine.device == "cpu":
        if gpus:
            said, remedy = "args.engine.device is cpu, and a GPU would stand idle", "Remove num_gpus"
    elif not gpus:
        said = "ray_actor_options replace all that the application sets, and no GPU is left"
        remedy = f"Give num_gpus: {parallel}"
    elif gpus < 1 and parallel == 1:
        if share > gpus:
            taken = f"{share:g} of its memory (args.engine.gpu_memory_utilization)"
            said, remedy = (
                f"a replica has {gpus:g} of a GPU, and takes {taken}",
                f"Set gpu_memory_utilization below {gpus:g}",
            )
    elif gpus != parallel:
        said = f"a replica has {gpus:g} GPUs, and its model is spread over {parallel} (engine.tensor_parallel_size)"
        remedy = "Give both the same number"
    if said:
        yield "ray_actor_options.num_gpus", said, remedy


def _scaling(deployment: Deployment, settings: RerankerConfig) -> Iterator[Row]:
    scaling = deployment.autoscaling_config
    if scaling is None:
        return
    if scaling.policy.policy_function in (_RAY_POLICY, _RAY_POLICY.replace(":", ".")):
        said = "Ray's own rule counts requests, of which Serve sees none here, so that it never scales up"
        yield "autoscaling_config", said, f"Give policy: {{policy_function: {_POLICY}}} (docs/scaling.md)"
    if scaling.policy.policy_function != _POLICY:
        return
    kwargs = "autoscaling_config.policy.policy_kwargs"
    try:
        target_s = ScalingConfig.model_validate(scaling.policy.policy_kwargs).target_queue_s
        if deployment.name in engine_deployments(settings) and target_s >= settings.admission.max_queue_s:
            said = f"lists are refused at {settings.admission.max_queue_s:g} s of queue, before replicas are added"
            yield f"{kwargs}.target_queue_s", said, "Lower it below args.admission.max_queue_s"
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            known = f"Known are {', '.join(ScalingConfig.model_fields)} (docs/configuration.md)"
            yield ".".join(map(str, (kwargs, *problem["loc"]))), problem["msg"], known
    for key in ("upscale_delay_s", "downscale_delay_s"):
        if delay_s := getattr(scaling, key):
            said = f"Serve would wait {delay_s:g} s more; the policy waits by itself"
            yield f"autoscaling_config.{key}", said, f"Give {key}: 0"
    for key in scaling.model_fields_set & _OF_RAYS_RULE:
        if getattr(scaling, key) is not None:
            said = "only Ray's own rule reads it, not this policy"
            yield f"autoscaling_config.{key}", said, "Remove it, or set the policy's own (docs/scaling.md)"
    if scaling.metrics_interval_s > _FRESH_S:
        said = f"the policy hears of a queue {scaling.metrics_interval_s:g} s late"
        yield "autoscaling_config.metrics_interval_s", said, "Give metrics_interval_s: 1"


def _buckets(config: ServeConfig) -> Iterator[Row]:
    """Histograms of one name must have the same buckets in every process of a node, or Ray drops the later one's."""
    common = _variables(config.controller_options and config.controller_options.runtime_env)
    groups = {}
    for place, application in enumerate(config.applications):
        groups[f"applications.{place}"] = application.runtime_env
        for number, deployment in enumerate(application.deployments):
            where = f"applications.{place}.deployments.{number}.ray_actor_options"
            groups[where] = deployment.ray_actor_options.runtime_env
    for where, environment in groups.items():
        for name, value in _variables(environment).items():
            if name.endswith("_BUCKETS_MS") and common.get(name) != value:
                said = "processes of one node would have different buckets, and Ray drops what the later one measures"
                remedy = "Set it in controller_options as well, or for the whole pod"
                yield f"{where}.runtime_env.env_vars.{name}", said, remedy


def _server(config: ServeConfig, settings: RerankerConfig, place: int, variables: Collection[str]) -> Iterator[Row]:
    """The ingress listens by itself, or one of Serve's proxies does."""
    http, access, listens = config.http_options, settings.access, config.proxy_location.value == "Disabled"
    if not (is_loopback(http.host) or access.keys_file or access.allow_anonymous or ENVIRONMENT in variables):
        said = (
            f"{http.host} can be reached from other machines, and there are no API keys: the service refuses to start"
        )
        remedy = f"Set args.access.keys_file, or {ENVIRONMENT} in the environment (docs/keys.md)"
        yield "http_options.host", said, remedy
    if not 0 < http.port < 65_536:
        yield "http_options.port", f"there is no port {http.port}", "Give one from 1024 to 65535"
    if not listens:
        if not os.environ.get("RAY_SERVE_ENABLE_HA_PROXY"):
            said = f"with {config.proxy_location.value} each request passes Serve's proxy, which costs it 7 ms"
            remedy = "Give Disabled, or start Ray with RAY_SERVE_ENABLE_HA_PROXY=1 (docs/decisions/0006-no-proxy.md)"
            yield "proxy_location", said, remedy
        for number, one in enumerate(config.applications):
            if one.import_path == UI_IMPORT_PATH:
                said = "Serve's proxy sends its paths to the page itself, which answers the ingress only: 500"
                yield f"applications.{number}.route_prefix", said, "Remove it, or give proxy_location Disabled"
        return
    said = "it is an option of Serve's proxy, which is not there"
    if config.applications[place].route_prefix != "/":
        yield (
            f"applications.{place}.route_prefix",
            f"{said}: the ingress answers on its own paths",
            "Remove it, and add the prefix in a gateway",
        )
    if http.request_timeout_s is not None:
        yield "http_options.request_timeout_s", said, "Use args.limits.timeout_s"
    if http.root_path:
        yield "http_options.root_path", said, "Remove it, and add the prefix in a gateway"


def _variables(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((runtime_env or {}).get("env_vars") or {})
