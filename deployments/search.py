"""Search deployments, if the configuration has an index: replicas that hold the indexes, and the embedding model's.

The ingress calls the search replicas and ranks what they find (docs/decisions/0010-search-in-the-ingress.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.http.search import call_replica
from deployments.telemetry import join_serve
from reranker.config import EmbeddingConfig, EngineConfig, RerankerConfig, SearchConfig, SearchIndexConfig
from reranker.engine.device import device_for
from reranker.engine.vllm import environment
from reranker.errors import ConfigurationError, IndexUnavailableError, InvalidRequestError, UnknownIndexError
from reranker.search.embedding import SIMULATED, HttpEmbedder, VllmEmbedder, simulated_vectors
from reranker.search.first_stages import Embedder, FirstStage, Milvus, Query, Retrieval, TextKind, first_stages
from reranker.search.index import IndexFolder, IndexReader
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

_CHECK_S = 5.0
"""Serve checks a replica's health this often, and the replica then looks for newer versions of its indexes."""


@dataclass(frozen=True, slots=True)
class _Index:
    """One index as it is searched now; `first_stage` is the default's name."""

    version: str
    stages: Mapping[str, FirstStage]
    first_stage: str
    info: Mapping[str, Any]  # Any: JSON


class Indexes:
    """All indexes of a configuration, kept open. One that cannot be opened does not affect the others."""

    def __init__(self, config: SearchConfig, embedder: Embedder | None, secrets: Mapping[str, str]) -> None:
        """Open them; `secrets` is the environment, for what must not stand in a configuration."""
        self._config, self._embedder, self._secrets = config, embedder, secrets
        self._open: dict[str, _Index] = {}
        self._failures: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Open the indexes that have a newer version or could not be opened before. May take seconds."""
        for name, config in self._config.indexes.items():
            try:
                self._open[name] = self._newest(name, config)
                self._failures.pop(name, None)
            except Exception as error:  # one broken index must not take the others along
                if not isinstance(error, ConfigurationError):
                    logger.exception("the index %s cannot be opened", name)
                elif self._failures.get(name) != str(error):  # said once, and not at every try
                    logger.error("the index %s cannot be opened: %s", name, error)  # noqa: TRY400 - one sentence
                self._failures[name] = str(error)

    async def search(self, query: Query) -> Retrieval:
        """Find candidates; raises `RerankerError`s."""
        configured = self._config.indexes
        name = next(iter(configured)) if query.index is None else query.index
        if name not in configured:
            raise UnknownIndexError(tuple(configured))
        index = self._open.get(name)
        if index is None:
            raise IndexUnavailableError(name)
        stage = query.first_stage or index.first_stage
        if stage not in index.stages:
            said = f"the index {name} has no such first stage; it has {', '.join(index.stages)}"
            raise InvalidRequestError("first_stage", said)
        candidates = await index.stages[stage].search(query.text, query.count, query.where)
        return Retrieval(tuple(candidates), name, index.version, stage)

    async def describe(self) -> list[dict[str, Any]]:  # Any: JSON
        """Describe the indexes, the default first."""
        described: list[dict[str, Any]] = []
        for name in self._config.indexes:
            index = self._open.get(name)
            described.append({"name": name, "available": index is not None})
            if index is not None:
                stages = {"first_stages": list(index.stages), "first_stage": index.first_stage}
                described[-1] |= {"version": index.version, **stages, **index.info}
        return described

    def _newest(self, name: str, config: SearchIndexConfig) -> _Index:
        before = self._open.get(name)
        if config.milvus is not None:
            if before is not None:
                return before
            milvus = Milvus(config.milvus, self._secrets, self._embedder)
            return _Index("", {"milvus": milvus}, "milvus", {"collection": config.milvus.collection})
        assert config.path is not None  # noqa: S101 - the configuration sees to it; for the type checker
        version = IndexFolder(config.path).current()
        if before is not None and before.version == version.name:
            return before
        reader = IndexReader(version)
        embedding, model = reader.info.embedding, self._config.embedding.model
        # Without its folder, which may be elsewhere on another machine.
        if embedding and model and Path(embedding.model).name != Path(model).name:
            said = f"{version}: its vectors come from {embedding.model}, and search.embedding.model is {model}"
            raise ConfigurationError(f"{said}; build the index with that, or serve with this")
        stages = first_stages(reader, self._embedder)
        default: str = config.first_stage or next(iter(stages))
        if default not in stages:
            raise ConfigurationError(f"{config.path}: first_stage is {default}, and it has no vectors")
        if before is not None:
            logger.info("the index %s is served in version %s now", name, version.name)
        info = reader.info.model_dump(include={"built_at", "documents", "chunks"})
        return _Index(version.name, stages, default, info)


class SearchReplica(Indexes):
    """Holds every index of the configuration, and searches them. One that cannot be opened does not stop its start."""

    def __init__(self, config: SearchConfig, embedding: DeploymentHandle | None) -> None:
        join_serve()
        embedder: Embedder | None = ReplicaEmbedder(embedding) if embedding is not None else None
        if config.embedding.url is not None:
            embedder = HttpEmbedder(config.embedding, os.environ)
        super().__init__(config, embedder, os.environ)

    async def check_health(self) -> None:
        """Called by Serve every few seconds: the moment to look for newer versions."""
        await asyncio.to_thread(self.refresh)


class EmbeddingReplica:
    """Embeds texts, on "cpu" or "cuda". It is RUNNING once its constructor has returned: the model is loaded then."""

    def __init__(self, config: EmbeddingConfig, device: str) -> None:
        join_serve()
        self.model: VllmEmbedder | None = None
        self._waiting: dict[object, list[list[int]]] = {}  # prompts of the calls that are in no batch yet
        self._batch: asyncio.Task[dict[object, FloatArray]] | None = None  # that they will be in
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "embedding")  # one: OpenMP makes its threads anew for each that calls
        if config.model == SIMULATED:
            logger.warning("SIMULATED embedding model: it knows words only")
        else:
            self.model = VllmEmbedder(config, device=device_for(EngineConfig(device=device), config.dtype))

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        if self.model is None:
            return simulated_vectors(texts)
        ids = await asyncio.to_thread(self.model.prompts.ids, texts, kind)
        call = object()
        self._waiting[call] = ids
        if self._batch is None:
            self._batch = asyncio.create_task(self._compute(self.model))
        try:
            return (await asyncio.shield(self._batch))[call]
        finally:
            self._waiting.pop(call, None)  # a cancelled call wants nothing

    async def _compute(self, model: VllmEmbedder) -> dict[object, FloatArray]:
        """Embed what waits, once the batch before is done: what comes in the meantime is in this one."""
        async with self._lock:
            waiting, self._waiting, self._batch = self._waiting, {}, None
            if not waiting:
                return {}
            prompts = [prompt for ids in waiting.values() for prompt in ids]
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, model.embed_ids, prompts)
        ends = accumulate(map(len, waiting.values()))
        return dict(zip(waiting, np.split(vectors, list(ends)[:-1]), strict=True))

    def shutdown(self) -> None:
        """Stop the model; for tests."""
        self._thread.shutdown()
        if self.model is not None:
            self.model.shutdown()


class ReplicaEmbedder:
    """Calls the embedding deployment. See `Embedder`."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas.options()  # at the start: a handle's first use asks Ray's control plane, and blocks

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        vectors: FloatArray = await call_replica(self._replicas.embed, list(texts), kind)
        return vectors


def search_application(config: RerankerConfig, device: str, flags: Mapping[str, str]) -> Application | None:
    """Wire the search deployments, for the ingress to be bound to. None: the configuration has no index.

    `flags` are environment variables that every replica of the service gets; the embedding model is on the `device`.
    """
    search, embedding = config.search, config.search.embedding
    if not search.indexes:
        return None
    embedding_replicas = None
    if embedding.model is not None and embedding.url is None:
        simulated = embedding.model == SIMULATED
        options = {
            "num_cpus": 0 if simulated else embedding.cpus,
            "num_gpus": embedding.gpus if device == "cuda" and not simulated else 0,
            "runtime_env": {"env_vars": {**flags, **environment(embedding.cpus)}},
        }
        embedding_replicas = serve.deployment(
            max_ongoing_requests=256,
            ray_actor_options=options,
            autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 16},
        )(EmbeddingReplica).bind(embedding, device)
    return serve.deployment(
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": search.cpus, "runtime_env": {"env_vars": dict(flags)}},
        health_check_period_s=_CHECK_S,
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
    )(SearchReplica).bind(search, embedding_replicas)
