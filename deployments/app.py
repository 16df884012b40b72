"""build_app(args): the composition root that serve_config.yaml names."""

from __future__ import annotations

import uuid

from ray import serve
from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]  # private: every node has 1 of it
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments import SERVE_FLAGS, engine_deployments
from deployments.engine_replica import EngineReplica, choose_device, resources
from deployments.http.guard import FEW_ARENAS
from deployments.ingress import Ingress
from deployments.router import ShardRouter
from deployments.search import search_application
from reranker.config import IngressConfig, RerankerConfig, SearchConfig
from reranker.engine.vllm import environment
from reranker.model.checkpoint import find_checkpoint

_SHUTDOWN_LOOK_S = 0.1
"""Serve waits so long before it looks whether a replica that is to end has calls left. Ours drain by themselves, and
Serve's own two seconds would only be added to every stop and update."""


def build_app(args: dict[str, object]) -> Application:
    """Wire the application from its `args` in the Serve configuration; see `RerankerConfig`.

    A pydantic.ValidationError or ConfigurationError stops the start before any device is taken.
    """
    config = _with_commits(RerankerConfig.model_validate(args))
    engines = [_engine(deployment, one) for deployment, one in engine_deployments(config).items()]
    search = search_application(config, choose_device(config, find_checkpoint(config.model)), SERVE_FLAGS)
    # Only a health check notices that an ingress has died: clients call it, not Serve.
    ingress = serve.deployment(Ingress).options(
        ray_actor_options={
            "num_cpus": config.ingress.cpus,
            "resources": ingress_resources(config.ingress),
            "runtime_env": {"env_vars": SERVE_FLAGS | FEW_ARENAS},
        },
        health_check_period_s=1,
        max_ongoing_requests=100_000,
        graceful_shutdown_wait_loop_s=_SHUTDOWN_LOOK_S,
    )
    return ingress.bind(config, engines[0], search, *engines[1:])


def _with_commits(config: RerankerConfig) -> RerankerConfig:
    """One commit of each model for all replicas, also for those that start after the branch has moved on."""
    commits = {name: find_checkpoint(one.model).revision for name, one in config.each_model().items()}
    models = {name: one.model_copy(update={"revision": commits[name]}) for name, one in config.models.items()}
    default = next(iter(commits.values()))
    return config.model_copy(update={"models": models, "model": config.model.model_copy(update={"revision": default})})


def _engine(deployment: str, config: RerankerConfig) -> Application:
    """Wire the engine deployment of one model."""
    device = choose_device(config, find_checkpoint(config.model))
    # So that a change of these restarts no engine.
    of_engines = config.model_copy(update={"search": SearchConfig(), "ingress": IngressConfig(), "shadows": ()})
    variables = environment(config.engine.cpus, config.engine.cpu_threads, device=device)
    return (
        serve.deployment(EngineReplica)
        .options(
            name=deployment,
            ray_actor_options={
                **resources(config, device),
                "runtime_env": {"env_vars": SERVE_FLAGS | variables},
            },
            graceful_shutdown_wait_loop_s=_SHUTDOWN_LOOK_S,
            request_router_config=RequestRouterConfig(
                request_router_class=ShardRouter,
                request_routing_stats_period_s=1,  # age of the load that an idle ingress knows
            ),
        )
        .bind(of_engines, device)
    )


def ingress_resources(config: IngressConfig) -> dict[str, float]:
    """Ray's custom resources for an ingress replica.

    One of a name that only this version of the application has keeps two of its replicas from one node. Serve's
    `max_replicas_per_node`, which does it in the same way, counts the old version as well: where every node has an
    ingress, an update would wait for a node more, for ever.
    """
    apart = {f"{IMPLICIT_RESOURCE_PREFIX}ingress-{uuid.uuid4().hex}": 1.0} if config.one_per_node else {}
    return dict(config.resources) | apart
