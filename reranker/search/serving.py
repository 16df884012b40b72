"""The indexes that a service has, each kept open and searched, and replaced when a newer version of it is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reranker.config import SearchConfig, SearchIndexConfig
from reranker.errors import ConfigurationError, IndexUnavailableError, InvalidRequestError, UnknownIndexError
from reranker.search.base import Embedder, FirstStage, Retrieved
from reranker.search.filters import Filter
from reranker.search.folder import IndexFolder
from reranker.search.milvus import Milvus
from reranker.search.opened import OpenIndex, first_stages

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Served:
    """One index as it is searched now."""

    version: str
    stages: Mapping[str, FirstStage]
    """By their names, the default first."""
    facts: Mapping[str, Any]  # Any: JSON


class Indexes:
    """All indexes of one configuration. An index that cannot be opened takes no other along."""

    def __init__(self, config: SearchConfig, embedder: Embedder | None, secrets: Mapping[str, str]) -> None:
        """Open what can be opened; `refresh` tries the rest again.

        Args:
            config: Which there are.
            embedder: Of the configured embedding model. None: none is configured.
            secrets: The environment, for what must not stand in a configuration.
        """
        self._config, self._embedder, self._secrets = config, embedder, secrets
        self._served: dict[str, _Served] = {}
        self._failed: dict[str, str] = {}
        for name in config.indexes:
            self._open(name)

    def refresh(self) -> None:
        """Open the indexes that have a newer version, or that could not be opened before. May take seconds."""
        for name in self._config.indexes:
            self._open(name)

    async def search(
        self, name: str | None, first_stage: str | None, query: str, count: int, wanted: Filter | None
    ) -> Retrieved:
        """Find candidates.

        Args:
            name: The index. None: the first that is configured.
            first_stage: None: the index's default.
            query: The query.
            count: How many, at most.
            wanted: Only chunks whose metadata this lets through. None: all.

        Raises:
            UnknownIndexError: There is no such index.
            InvalidRequestError: The index has no such first stage.
            IndexUnavailableError: It could not be opened.
            RetrievalError: What the first stage asks did not answer.
        """
        known = self._config.indexes
        name = next(iter(known)) if name is None else name
        if name not in known:
            raise UnknownIndexError(tuple(known))
        served = self._served.get(name)
        if served is None:
            raise IndexUnavailableError(name)
        chosen: str = first_stage or known[name].first_stage or next(iter(served.stages))
        if chosen not in served.stages:
            said = f"the index {name} has no such first stage; it has {', '.join(served.stages)}"
            raise InvalidRequestError("first_stage", said)
        found = await served.stages[chosen].search(query, count, wanted)
        return Retrieved(tuple(found), name, served.version, chosen)

    def describe(self) -> list[dict[str, Any]]:  # Any: JSON
        """Say what there is, for people."""
        described = []
        for name, config in self._config.indexes.items():
            served = self._served.get(name)
            if served is None:
                described.append({"name": name, "available": False})
                continue
            default: str = config.first_stage or next(iter(served.stages))
            stages = {"first_stages": list(served.stages), "first_stage": default}
            described.append({"name": name, "available": True, "version": served.version, **stages, **served.facts})
        return described

    def _open(self, name: str) -> None:
        config = self._config.indexes[name]
        try:
            served = self._opened(name, config)
        except Exception as error:  # one broken index must not take the others along: logged, and said to who asks
            if not isinstance(error, ConfigurationError):
                logger.exception("the index %s cannot be opened", name)
            elif self._failed.get(name) != str(error):  # once, not at every try
                logger.error("the index %s cannot be opened: %s", name, error)  # noqa: TRY400 - one sentence
            self._failed[name] = str(error)
        else:
            self._failed.pop(name, None)
            self._served[name] = served

    def _opened(self, name: str, config: SearchIndexConfig) -> _Served:
        before = self._served.get(name)
        if config.milvus is not None:
            if before is not None:
                return before
            milvus = Milvus(config.milvus, self._secrets, self._embedder)
            return _Served("", {milvus.name: milvus}, {"collection": config.milvus.collection})
        assert config.path is not None  # noqa: S101 - the configuration sees to it; for the type checker
        version = IndexFolder(config.path).current()
        if before is not None and before.version == version.name:
            return before
        index = OpenIndex(version)
        self._require_same_model(index)
        stages = first_stages(index, self._embedder)
        if config.first_stage is not None and config.first_stage not in stages:
            raise ConfigurationError(f"{config.path}: first_stage is {config.first_stage}, and it has no vectors")
        if before is not None:
            logger.info("the index %s is served in version %s now", name, version.name)
        facts = index.facts
        return _Served(
            version.name,
            stages,
            {"built_at": facts.built_at, "documents": facts.documents, "chunks": facts.chunks},
        )

    def _require_same_model(self, index: OpenIndex) -> None:
        """An index's vectors mean nothing to another model."""
        made_with = index.facts.embedding
        asked_with = self._config.embedding.model
        if made_with is not None and asked_with is not None and not _same(made_with.model, asked_with):
            said = (
                f"{index.folder}: its vectors come from {made_with.model}, and search.embedding.model is {asked_with}"
            )
            raise ConfigurationError(f"{said}; build the index with that, or serve with this")


def _same(one: str, other: str) -> bool:
    """Whether two names are of one model: a folder may be elsewhere on another machine."""
    return one.rstrip("/").rsplit("/", 1)[-1] == other.rstrip("/").rsplit("/", 1)[-1]
