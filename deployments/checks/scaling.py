"""Settings of autoscaling that contradict each other, or what the policy needs."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from deployments.checks.finding import YAML, Finding, value_of
from deployments.checks.marked_yaml import Path
from reranker.config import RerankerConfig, ScalingConfig

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


def problems(deployment: YAML, path: Path) -> Iterator[Finding]:
    """Say what contradicts in the `autoscaling_config` of a deployment, if it has one."""
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


def target(settings: RerankerConfig, deployment: YAML, path: Path) -> Iterator[Finding]:
    """Say where the engines' target cannot be reached, as lists are refused before."""
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


def by_requests(deployment: YAML) -> bool:
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
