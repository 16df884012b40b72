"""build_ui(args): the playground's Serve application. Light to import: Gradio is loaded in the replica, when needed."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from deployments.ui.replica import Playground
from reranker.config import UIConfig

_MAX_VISITS = 256
"""At the same time; an open page holds one or two."""
_MAX_WAITING = 64


def build_ui(args: dict[str, object]) -> Application:
    """Wire the playground's application.

    Args:
        args: `args` of the application in the Serve configuration; see `UIConfig`.

    Raises:
        pydantic.ValidationError: An unknown key or a wrong value.
    """
    options = {
        "num_cpus": 0,  # it waits more than it computes
        "runtime_env": {"env_vars": {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}},
    }
    # One replica: Gradio keeps what belongs to an open page in its process.
    deployment = serve.deployment(Playground).options(
        num_replicas=1,
        max_ongoing_requests=_MAX_VISITS,
        max_queued_requests=_MAX_WAITING,
        ray_actor_options=options,
        graceful_shutdown_timeout_s=2,  # an open page holds a connection for as long as it is open
    )
    return deployment.bind(UIConfig.model_validate(args))
