"""build_app(args): the composition root that serve_config.yaml names."""

from __future__ import annotations

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments import SERVE_FLAGS
from deployments.engine_replica import EngineReplica, choose_device, resources
from deployments.http.guard import FEW_ARENAS
from deployments.ingress import Ingress
from deployments.router import ShardRouter
from deployments.search import search_application
from reranker.config import RerankerConfig, SearchConfig
from reranker.engine.vllm import environment
from reranker.model.checkpoint import find_checkpoint

_SHUTDOWN_LOOK_S = 0.1
"""Serve waits so long before it looks whether a replica that is to end has calls left. Ours drain by themselves, and
Serve's own two seconds would only be added to every stop and update."""


def build_app(args: dict[str, object]) -> Application:
    """Wire the application from its `args` in the Serve configuration; see `RerankerConfig`.

    A pydantic.ValidationError or ConfigurationError stops the start before any device is taken.
    """
    config = RerankerConfig.model_validate(args)
    checkpoint = find_checkpoint(config.model)
    # One commit for all replicas, also for those that start after the branch has moved on.
    config = config.model_copy(update={"model": config.model.model_copy(update={"revision": checkpoint.revision})})
    device = choose_device(config, checkpoint)
    without_search = config.model_copy(update={"search": SearchConfig()})  # so that a change of it restarts no engine
    variables = environment(config.engine.cpus, config.engine.cpu_threads, device=device)
    engine = (
        serve.deployment(EngineReplica)
        .options(
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
        .bind(without_search, device)
    )
    # 0 cores: it waits more than it computes, and on a small machine it must not take an engine's place.
    options = {"num_cpus": 0, "runtime_env": {"env_vars": SERVE_FLAGS | FEW_ARENAS}}
    search = search_application(config, device, SERVE_FLAGS)
    # Only a health check notices that an ingress has died: clients call it, not Serve.
    ingress = serve.deployment(Ingress).options(
        ray_actor_options=options,
        health_check_period_s=1,
        max_ongoing_requests=100_000,
        graceful_shutdown_wait_loop_s=_SHUTDOWN_LOOK_S,
    )
    return ingress.bind(config, engine, search)
