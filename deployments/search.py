"""Search: replicas that hold the indexes and find candidates; off, unless the configuration has an index.

The ingress asks them and has what they find ranked as any other list (docs/decisions/0010-search-in-the-ingress.md).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.embedding import EmbeddingReplica, ReplicaEmbedder
from deployments.telemetry import join_serve
from reranker.config import RerankerConfig, SearchConfig
from reranker.search.base import Retrieved
from reranker.search.filters import Filter
from reranker.search.serving import Indexes

_ONGOING = 64
_CHECK_S = 5.0
"""So often Serve asks a replica how it is, and the replica looks for newer versions of its indexes."""


class SearchReplica:
    """Holds every index of the configuration, and searches them."""

    def __init__(self, config: SearchConfig, embedding: DeploymentHandle | None) -> None:
        """Open the indexes; one that cannot be opened is tried again, and is no reason not to start.

        Args:
            config: Which there are.
            embedding: Handle of the embedding deployment. None: there is no dense search.
        """
        join_serve()
        embedder = ReplicaEmbedder(embedding) if embedding is not None else None
        self._indexes = Indexes(config, embedder, os.environ)

    async def search(
        self, index: str | None, first_stage: str | None, query: str, count: int, wanted: Filter | None
    ) -> Retrieved:
        """See `Indexes.search`."""
        return await self._indexes.search(index, first_stage, query, count, wanted)

    async def describe(self) -> list[dict[str, Any]]:  # Any: JSON
        """See `Indexes.describe`."""
        return self._indexes.describe()

    async def check_health(self) -> None:
        """Called by Serve every few seconds: the moment to look for newer versions."""
        await asyncio.to_thread(self._indexes.refresh)


def search_application(config: RerankerConfig, device: str, flags: Mapping[str, str]) -> Application | None:
    """Wire the search deployments, for the ingress to be bound to.

    Args:
        config: The service's configuration.
        device: "cpu" or "cuda": where the embedding model is to be.
        flags: Environment variables that every replica of the service gets.

    Returns:
        None: the configuration has no index.
    """
    search = config.search
    if not search.indexes:
        return None
    embedding = None
    if search.embedding.model is not None:
        embedding = EmbeddingReplica.application(search.embedding, device, flags)
    options = {"num_cpus": search.cpus, "runtime_env": {"env_vars": dict(flags)}}
    return (
        serve.deployment(SearchReplica)
        .options(
            ray_actor_options=options,
            max_ongoing_requests=_ONGOING,
            health_check_period_s=_CHECK_S,
            autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
        )
        .bind(search, embedding)
    )
