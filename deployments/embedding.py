"""The embedding model of dense search: one engine per replica, and how the search replicas call it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.telemetry import join_serve
from reranker.config import EmbeddingConfig
from reranker.errors import RerankerError, RetrievalError
from reranker.search.base import Embedder, Kind
from reranker.search.simulated import SIMULATED, SimulatedEmbedder
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

_ONGOING = 256


class EmbeddingReplica:
    """Embeds texts. It is RUNNING once its constructor has returned: the model is loaded then."""

    def __init__(self, config: EmbeddingConfig, device: str) -> None:
        """Load the model.

        Args:
            config: Which, and how.
            device: "cpu" or "cuda".
        """
        join_serve()
        self._embedder = _embedder(config, device)

    async def embed(self, texts: Sequence[str], kind: Kind) -> FloatArray:
        """See `Embedder`."""
        return await self._embedder.embed(texts, kind)

    @classmethod
    def application(cls, config: EmbeddingConfig, device: str, flags: Mapping[str, str]) -> Application:
        """Wire the deployment.

        Args:
            config: The model.
            device: "cpu" or "cuda".
            flags: Environment variables that every replica of the service gets.
        """
        simulated = config.model == SIMULATED
        variables = {
            # Read by OpenMP and vLLM when they load, so they must be there before the process starts.
            "OMP_NUM_THREADS": str(max(1, int(config.cpus))),
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
        }
        return (
            serve.deployment(cls)
            .options(
                max_ongoing_requests=_ONGOING,
                ray_actor_options={
                    "num_cpus": 0 if simulated else config.cpus,
                    "num_gpus": config.gpus if device == "cuda" and not simulated else 0,
                    "runtime_env": {"env_vars": dict(flags) | variables},
                },
                autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 16},
            )
            .bind(config, device)
        )


def _embedder(config: EmbeddingConfig, device: str) -> Embedder:
    if config.model == SIMULATED:
        logger.warning("SIMULATED embedding model: it knows words only")
        return SimulatedEmbedder()
    # Imported here: vllm brings torch, which no other replica must load.
    from reranker.search.embedding import VllmEmbedder

    return VllmEmbedder(config, device=device)


class ReplicaEmbedder:
    """See `Embedder`: the embedding deployment, from within a search replica. Ray's errors end here."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        """Call these."""
        self._replicas = replicas

    async def embed(self, texts: Sequence[str], kind: Kind) -> FloatArray:
        """Have texts embedded; raises RetrievalError where that fails."""
        try:
            vectors: FloatArray = await self._replicas.embed.remote(list(texts), kind)
        except RayTaskError as error:
            logger.warning("embedding failed: %s", type(error.cause).__name__)
            raise (error.cause if isinstance(error.cause, RerankerError) else RetrievalError()) from None
        except (RayError, RayServeException) as error:
            logger.warning("embedding failed: %s", type(error).__name__)
            raise RetrievalError from None
        return vectors
