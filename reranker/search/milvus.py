"""An existing Milvus as a first stage, through its own client: by vectors, by its own BM25, or by both."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from reranker.config import MilvusConfig
from reranker.errors import ConfigurationError, InvalidRequestError, RetrievalError
from reranker.search.base import Candidate, Chunk, Embedder
from reranker.search.filters import Filter, Term
from reranker.search.hybrid import fuse

logger = logging.getLogger(__name__)

TOKEN = "RERANKER_MILVUS_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with Milvus' token, or "user:password"."""
_COMPARED = {
    "$eq": "==",
    "$ne": "!=",
    "$gt": ">",
    "$gte": ">=",
    "$lt": "<",
    "$lte": "<=",
    "$in": "in",
    "$nin": "not in",
}


class Milvus:
    """A collection. See `reranker.search.base.FirstStage`."""

    name = "milvus"

    def __init__(self, config: MilvusConfig, secrets: Mapping[str, str], embedder: Embedder | None) -> None:
        """Connect.

        Args:
            config: Where it is.
            secrets: The environment.
            embedder: Of the model that its vectors come from; given if there is a field with vectors.

        Raises:
            ConfigurationError: It cannot be reached, or there is no such collection.
        """
        from pymilvus import DataType, MilvusClient
        from pymilvus.exceptions import MilvusException

        self._config, self._embedder = config, embedder
        self._failures = (MilvusException, OSError)
        try:
            self._client = MilvusClient(
                config.uri, token=secrets.get(TOKEN, ""), db_name=config.database, timeout=config.timeout_s
            )
            there = self._client.has_collection(config.collection, timeout=config.timeout_s)
        except self._failures as error:
            raise ConfigurationError(f"Milvus at {config.uri} cannot be reached ({type(error).__name__})") from None
        if not there:
            raise ConfigurationError(f"Milvus at {config.uri} has no collection {config.collection}")
        described = self._client.describe_collection(config.collection)
        types = {field["name"]: DataType(field["type"]) for field in described["fields"]}
        missing = {config.text_field, config.vector_field, config.words_field, config.id_field} - {None, *types}
        if missing and not (described.get("enable_dynamic_field") and missing <= {config.text_field, config.id_field}):
            raise ConfigurationError(
                f"collection {config.collection} of Milvus has no field {sorted(map(str, missing))}"
            )
        # Not "*": the vectors would travel, too.
        self._fields = [name for name, kind in types.items() if "VECTOR" not in kind.name]
        self._fields += ["$meta"] if described.get("enable_dynamic_field") else []
        self._client.load_collection(config.collection)

    async def search(self, query: str, count: int, wanted: Filter | None = None) -> list[Candidate]:
        """Search the fields that there are, and fuse what is found in two."""
        expression = "" if wanted is None else _expression(wanted)
        asked: list[tuple[str, Any]] = []
        if self._config.vector_field is not None:
            assert self._embedder is not None  # noqa: S101 - the configuration sees to it; for the type checker
            vectors = await self._embedder.embed([query], "query")
            asked.append((self._config.vector_field, vectors[0].tolist()))
        if self._config.words_field is not None:
            asked.append((self._config.words_field, query))
        try:
            found = [await asyncio.to_thread(self._find, *one, count, expression) for one in asked]
        except self._failures as error:
            logger.warning("Milvus did not answer a search: %s", type(error).__name__)
            raise RetrievalError from None
        return found[0] if len(found) == 1 else fuse(found)[:count]

    def _find(self, field: str, data: Any, count: int, expression: str) -> list[Candidate]:
        [hits] = self._client.search(
            self._config.collection,
            data=[data],
            anns_field=field,
            limit=count,
            filter=expression,
            output_fields=self._fields,
            timeout=self._config.timeout_s,
        )
        return [Candidate(self._chunk(hit["entity"], str(hit["id"])), float(hit["distance"])) for hit in hits]

    def _chunk(self, entity: Mapping[str, Any], key: str) -> Chunk:
        config = self._config
        ours = {config.id_field, config.text_field, config.title_field, config.vector_field, config.words_field}
        title = entity.get(config.title_field) if config.title_field else None
        metadata = {name: value for name, value in entity.items() if name not in ours}
        text = str(entity.get(config.text_field) or "")
        return Chunk(str(entity.get(config.id_field, key)), 0, text, title=str(title or ""), metadata=metadata)


def _expression(wanted: Filter) -> str:
    """Write a filter as Milvus has it.

    Values are written as JSON, whose strings and numbers Milvus reads, so that none of them ends early. (Its templates
    would keep them apart, but Milvus before 2.5 and Milvus Lite know none.) As in SQL, a field that is not there is
    neither equal nor unequal to anything.

    Raises:
        InvalidRequestError: A field's name is none that could be written.
    """
    if isinstance(wanted, Term):
        return _term(wanted)
    if wanted.how == "$not":
        return f"not ({_expression(wanted.parts[0])})"
    return "(" + (" and " if wanted.how == "$and" else " or ").join(map(_expression, wanted.parts)) + ")"


def _term(one: Term) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", one.field):
        raise InvalidRequestError("filter", "in Milvus, a field's name has letters, digits, _ and . only")
    first, *inner = one.field.split(".")
    place = first + "".join(f'["{part}"]' for part in inner)
    if one.operator == "$exists":
        return f"{place} is {'not ' if one.value else ''}null"
    if one.value is None:
        return f"{place} is {'not ' if one.operator == '$ne' else ''}null"
    if isinstance(one.value, list) and None in one.value:
        raise InvalidRequestError("filter", "in Milvus, null cannot be one of several values; use $exists and $or")
    return f"{place} {_COMPARED[one.operator]} {json.dumps(one.value, ensure_ascii=False, allow_nan=False)}"
