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
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.telemetry import join_serve
from reranker.config import EmbeddingConfig, RerankerConfig, SearchConfig, SearchIndexConfig
from reranker.errors import (
    ConfigurationError,
    IndexUnavailableError,
    InvalidRequestError,
    RerankerError,
    RetrievalError,
    UnknownIndexError,
)
from reranker.search.embedding import SIMULATED, HttpEmbedder, SimulatedEmbedder, VllmEmbedder
from reranker.search.first_stages import Milvus, first_stages
from reranker.search.index import IndexFolder, IndexReader
from reranker.search.types import Embedder, FirstStage, Query, Retrieval, TextKind
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

_SEARCHES = 64
"""Searches that one replica has at a time."""
_EMBEDDINGS = 256
"""Calls that one embedding replica has at a time."""
_CHECK_S = 5.0
"""Serve checks a replica's health this often, and the replica then looks for newer versions of its indexes."""


@dataclass(frozen=True, slots=True)
class _Index:
    """One index as it is searched now."""

    version: str
    stages: Mapping[str, FirstStage]
    """By their names, the default first."""
    info: Mapping[str, Any]  # Any: JSON


class Indexes:
    """All indexes of a configuration, kept open. One that cannot be opened does not affect the others."""

    def __init__(self, config: SearchConfig, embedder: Embedder | None, secrets: Mapping[str, str]) -> None:
        """Open them; `refresh` tries again what could not be opened.

        Args:
            config: The indexes.
            embedder: Of the configured embedding model. None: none is configured.
            secrets: The environment, for what must not stand in a configuration.
        """
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
        """Find candidates.

        Raises:
            UnknownIndexError: There is no such index.
            InvalidRequestError: The index has no such first stage.
            IndexUnavailableError: The index could not be opened.
            RetrievalError: A service that the first stage needs did not answer.
        """
        configured = self._config.indexes
        name = next(iter(configured)) if query.index is None else query.index
        if name not in configured:
            raise UnknownIndexError(tuple(configured))
        index = self._open.get(name)
        if index is None:
            raise IndexUnavailableError(name)
        stage: str = query.first_stage or configured[name].first_stage or next(iter(index.stages))
        if stage not in index.stages:
            said = f"the index {name} has no such first stage; it has {', '.join(index.stages)}"
            raise InvalidRequestError("first_stage", said)
        candidates = await index.stages[stage].search(query.text, query.count, query.where)
        return Retrieval(tuple(candidates), name, index.version, stage)

    async def describe(self) -> list[dict[str, Any]]:  # Any: JSON
        """Describe the indexes, the default first."""
        described = []
        for name, config in self._config.indexes.items():
            index = self._open.get(name)
            if index is None:
                described.append({"name": name, "available": False})
                continue
            default: str = config.first_stage or next(iter(index.stages))
            stages = {"first_stages": list(index.stages), "first_stage": default}
            described.append({"name": name, "available": True, "version": index.version, **stages, **index.info})
        return described

    def _newest(self, name: str, config: SearchIndexConfig) -> _Index:
        before = self._open.get(name)
        if config.milvus is not None:
            if before is not None:
                return before
            milvus = Milvus(config.milvus, self._secrets, self._embedder)
            return _Index("", {milvus.name: milvus}, {"collection": config.milvus.collection})
        assert config.path is not None  # noqa: S101 - the configuration sees to it; for the type checker
        version = IndexFolder(config.path).current()
        if before is not None and before.version == version.name:
            return before
        reader = IndexReader(version)
        embedding, configured = reader.info.embedding, self._config.embedding.model
        if embedding is not None and configured is not None and _last_part(embedding.model) != _last_part(configured):
            said = f"{version}: its vectors come from {embedding.model}, and search.embedding.model is {configured}"
            raise ConfigurationError(f"{said}; build the index with that, or serve with this")
        stages = first_stages(reader, self._embedder)
        if config.first_stage is not None and config.first_stage not in stages:
            raise ConfigurationError(f"{config.path}: first_stage is {config.first_stage}, and it has no vectors")
        if before is not None:
            logger.info("the index %s is served in version %s now", name, version.name)
        return _Index(version.name, stages, reader.info.model_dump(include={"built_at", "documents", "chunks"}))


def _last_part(model: str) -> str:
    """A model's name without its folder, which may be elsewhere on another machine."""
    return model.rstrip("/").rsplit("/", 1)[-1]


class SearchReplica(Indexes):
    """Holds every index of the configuration, and searches them."""

    def __init__(self, config: SearchConfig, embedding: DeploymentHandle | None) -> None:
        """Open the indexes. One that cannot be opened is no reason not to start.

        Args:
            config: The indexes, and the embedding model.
            embedding: Handle of the embedding deployment. None: there is none.
        """
        join_serve()
        embedder: Embedder | None = None
        if config.embedding.url is not None:
            embedder = HttpEmbedder(config.embedding, os.environ)
        elif embedding is not None:
            embedder = ReplicaEmbedder(embedding)
        super().__init__(config, embedder, os.environ)

    async def check_health(self) -> None:
        """Called by Serve every few seconds: the moment to look for newer versions."""
        await asyncio.to_thread(self.refresh)


class EmbeddingReplica:
    """Embeds texts. It is RUNNING once its constructor has returned: the model is loaded then."""

    def __init__(self, config: EmbeddingConfig, device: str) -> None:
        """Load the model.

        Args:
            config: Which, and how.
            device: "cpu" or "cuda".
        """
        join_serve()
        self.model: VllmEmbedder | None = None
        self._waiting: list[tuple[list[list[int]], asyncio.Future[FloatArray]]] = []
        self._running: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "embedding")  # one: OpenMP makes its threads anew for each that calls
        if config.model == SIMULATED:
            logger.warning("SIMULATED embedding model: it knows words only")
        else:
            self.model = VllmEmbedder(config, device=device)

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """See `Embedder`."""
        if self.model is None:
            return await SimulatedEmbedder().embed(texts, kind)
        ids = await asyncio.to_thread(self.model.prompts.ids, texts, kind)
        answer: asyncio.Future[FloatArray] = asyncio.get_running_loop().create_future()
        self._waiting.append((ids, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run(self.model))
        return await answer

    async def _run(self, model: VllmEmbedder) -> None:
        """Embed batch after batch: what comes while one is computed is the next."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            wanted = [(ids, answer) for ids, answer in waiting if not answer.done()]  # a cancelled call wants nothing
            if not wanted:
                continue
            prompts = [prompt for ids, _ in wanted for prompt in ids]
            try:
                vectors = await asyncio.get_running_loop().run_in_executor(self._thread, model.embed_ids, prompts)
            except Exception as error:  # noqa: BLE001 - whatever vLLM raises is told to those who wait
                for _, answer in wanted:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            ends = list(accumulate(len(ids) for ids, _ in wanted))
            for part, (_, answer) in zip(np.split(vectors, ends[:-1]), wanted, strict=True):
                if not answer.done():
                    answer.set_result(part)

    def shutdown(self) -> None:
        """Stop the model; for tests."""
        self._thread.shutdown()
        if self.model is not None:
            self.model.shutdown()


class ReplicaEmbedder:
    """The embedding deployment, called from a search replica. Ray's errors end here. See `Embedder`."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        """Call these."""
        self._replicas = replicas

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """See `Embedder`."""
        try:
            vectors: FloatArray = await self._replicas.embed.remote(list(texts), kind)
        except (RayError, RayServeException) as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            logger.warning("embedding failed: %s", type(cause).__name__)
            raise (cause if isinstance(cause, RerankerError) else RetrievalError()) from None
        return vectors


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
    if search.embedding.model is not None and search.embedding.url is None:
        embedding = _embedding_application(search.embedding, device, flags)
    return (
        serve.deployment(SearchReplica)
        .options(
            ray_actor_options={"num_cpus": search.cpus, "runtime_env": {"env_vars": dict(flags)}},
            max_ongoing_requests=_SEARCHES,
            health_check_period_s=_CHECK_S,
            autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
        )
        .bind(search, embedding)
    )


def _embedding_application(config: EmbeddingConfig, device: str, flags: Mapping[str, str]) -> Application:
    simulated = config.model == SIMULATED
    variables = {
        # Read by OpenMP and vLLM when they load, so they must be there before the process starts.
        "OMP_NUM_THREADS": str(max(1, int(config.cpus))),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }
    return (
        serve.deployment(EmbeddingReplica)
        .options(
            max_ongoing_requests=_EMBEDDINGS,
            ray_actor_options={
                "num_cpus": 0 if simulated else config.cpus,
                "num_gpus": config.gpus if device == "cuda" and not simulated else 0,
                "runtime_env": {"env_vars": dict(flags) | variables},
            },
            autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 16},
        )
        .bind(config, device)
    )
