"""The service on Ray Serve: ingress, engine replicas, HTTP, the playground, batches and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reranker.config import RerankerConfig

IMPORT_PATH, UI_IMPORT_PATH = "deployments.app:build_app", "deployments.ui.app:build_ui"
"""What a Serve configuration names."""
INGRESS_DEPLOYMENT, ENGINE_DEPLOYMENT = "Ingress", "EngineReplica"
SERVE_FLAGS = {
    # Serve's router and our code run on the replica's own event loop, which saves a hop to another thread each way.
    # The ingress needs it: its HTTP server runs on that loop.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Handles see no shards (fleet.py): the policy of autoscaling.py has its figures from the replicas.
    "RAY_SERVE_COLLECT_AUTOSCALING_METRICS_ON_HANDLE": "0",
}
"""Environment variables of every replica of ours."""


def engine_deployments(config: RerankerConfig) -> dict[str, RerankerConfig]:
    """What each engine deployment is set up with, by its name. The default model's has the name of an only one's."""
    each = config.each_model().items()
    return {
        f"{ENGINE_DEPLOYMENT}-{name}" if number else ENGINE_DEPLOYMENT: one for number, (name, one) in enumerate(each)
    }
