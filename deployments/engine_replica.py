"""One engine per replica: loads the model, scores shards, says when it no longer can."""

from __future__ import annotations

import logging

from ray import serve

from reranker.checkpoint import find_checkpoint
from reranker.config import RerankerConfig
from reranker.errors import EngineFailedError, StartupCheckError
from reranker.prompt import PromptRenderer
from reranker.startup_check import require_sane, tolerance_for
from reranker.types import Shard, ShardScores

logger = logging.getLogger(__name__)


class EngineReplica:
    """A replica is RUNNING, and gets shards, once its constructor has returned: it can score then."""

    def __init__(self, config: RerankerConfig, device: str) -> None:
        """Load the model, and check that it scores as a reranker does.

        Args:
            config: The service's configuration.
            device: "cpu" or "cuda".

        Raises:
            StartupCheckError: It does not. Serve tries again a few times, then gives up; none takes traffic.
        """
        # Imported here: it brings torch, which the ingress and Serve's controller must not load.
        from reranker.engine.vllm import VllmEngine

        checkpoint = find_checkpoint(config.model)
        self._engine = VllmEngine(checkpoint, config.engine, device=device)
        if config.engine.startup_check:
            renderer = PromptRenderer.of(checkpoint, config.model)
            try:
                require_sane(self._engine, renderer, tolerance_for(checkpoint.dtype, config.engine.quantization))
            except StartupCheckError as error:
                logger.error("%s", error)  # noqa: TRY400 - one sentence; Serve logs the traceback
                self._engine.shutdown()
                raise
        self._name: str = serve.get_replica_context().replica_id.unique_id

    async def score(self, shard: Shard) -> ShardScores:
        """Score all pairs of a shard.

        Raises:
            EngineFailedError: This replica's engine stopped working.
        """
        return ShardScores(await self._engine.score(shard), self._name)

    def ready(self) -> str:
        """Answer with the replica's name: that there is an answer is the news."""
        return self._name

    def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if not self._engine.healthy:
            raise EngineFailedError

    def __del__(self) -> None:
        """Called by Serve when the replica has drained."""
        if hasattr(self, "_engine"):
            self._engine.shutdown()
