"""First stages, each behind `FirstStage`: BM25, dense and hybrid search of an index, and an existing Milvus."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from reranker.config import MilvusConfig
from reranker.errors import ConfigurationError, InvalidRequestError, RetrievalError
from reranker.search.documents import Analyzer, Chunk
from reranker.search.filters import Filter, Term
from reranker.search.index import IndexReader
from reranker.types import FloatArray

logger = logging.getLogger(__name__)

MILVUS_TOKEN = "RERANKER_MILVUS_TOKEN"  # noqa: S105 - the name of a variable
_BM25, VECTORS, _FAISS = "bm25", "vectors.npy", "faiss.index"
_RRF_CONSTANT = 60
_MILVUS_OPERATORS = {"$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_MILVUS_OPERATORS |= {"$in": "in", "$nin": "not in"}
TextKind: TypeAlias = Literal["query", "document"]
"""What an embedding model is given; many want an instruction before a query."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a search is for."""

    text: str
    count: int
    index: str | None = None  # None: the first that is configured
    first_stage: str | None = None  # None: the index's default
    where: Filter | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that a first stage found."""

    chunk: Chunk
    score: float
    """The first stage's own: higher is better, and only comparable within one search."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The candidates for one query, best first."""

    candidates: tuple[Candidate, ...] = ()
    index: str = ""
    version: str = ""
    first_stage: str = ""


class FirstStage(Protocol):
    """Finds candidates for a query."""

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        """Find at most so many chunks that pass the filter, best first; raises RetrievalError."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """Embed texts: shape (texts, dimensions), each vector of length 1; raises RetrievalError."""


def first_stages(index: IndexReader, embedder: Embedder | None) -> dict[str, FirstStage]:
    """Give the first stages of an index by their names, the default first; without an embedder only BM25."""
    bm25 = Bm25(index)
    if embedder is None or index.info.embedding is None:
        return {"bm25": bm25}
    dense = Dense(index, embedder)
    return {"hybrid": Hybrid(bm25, dense), "bm25": bm25, "dense": dense}


def check_integrity(index: IndexReader) -> None:
    """Compare the parts of an index; raises RuntimeError if they disagree or a chunk is there twice."""
    seen = {(chunk.id, chunk.number) for chunk in index.chunks}
    if len(seen) != len(index.chunks):
        raise RuntimeError(f"{len(index.chunks) - len(seen)} chunks are there twice. This is a bug")
    counts = {"info": index.info.chunks, "chunks": len(index.chunks), "bm25": len(Bm25(index))}
    if index.info.embedding is not None:
        faiss = _faiss()
        counts["vectors"] = faiss.read_index(str(index.folder / _FAISS), faiss.IO_FLAG_MMAP).ntotal
    if len(set(counts.values())) != 1 or len({name for name, _ in seen}) != index.info.documents:
        raise RuntimeError(f"the parts of the index do not agree: {counts}. This is a bug")


class Bm25:
    """BM25 by bm25s; needs no model. See `FirstStage`."""

    def __init__(self, index: IndexReader) -> None:
        import bm25s

        self._index, self._analyzer = index, index.info.words
        self._bm25 = bm25s.BM25.load(str(index.folder / _BM25), mmap=True, show_progress=False)
        list(self._analyzer.words("\u8bcd"))  # loads the dictionary now, and not in a request

    @staticmethod
    def write(folder: Path, texts: Iterable[str], analyzer: Analyzer) -> None:
        """Index texts, in their order, into a version's folder: bm25s' defaults (k1 1.5, b 0.75, Lucene's formula)."""
        import bm25s  # here: it brings numba, which vLLM's start trips over, and takes half a second
        from bm25s.tokenization import Tokenized

        vocabulary: dict[str, int] = {}
        ids = [
            np.asarray([vocabulary.setdefault(word, len(vocabulary)) for word in analyzer.words(text)], dtype=np.int32)
            for text in texts
        ]
        if not vocabulary:  # documents of punctuation only; bm25s fails on them
            vocabulary[""] = 0
            ids[0] = np.zeros(1, dtype=np.int32)
        index = bm25s.BM25(backend="numpy")
        index.index(Tokenized(ids=ids, vocab=vocabulary), show_progress=False)
        index.save(str(folder / _BM25), show_progress=False)

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        return await asyncio.to_thread(self._search, query, count, where)

    def _search(self, query: str, count: int, where: Filter | None) -> list[Candidate]:
        known, stop_words = self._bm25.vocab_dict, _stop_words(self._analyzer)
        words = list(self._analyzer.words(query))
        # Stop words say nothing, unless the query is nothing else ("The Who").
        telling = [word for word in words if word not in stop_words] or words
        ids = [known[word] for word in telling if word in known]
        if not ids:
            return []
        scores = self._bm25.get_scores_from_ids(ids, weight_mask=self._index.rows(where))
        return [Candidate(self._index.chunks[row], float(scores[row])) for row in best_rows(scores, count)]


def best_rows(scores: Any, count: int) -> list[int]:  # Any: an array of numbers
    """The rows of the highest scores above 0, highest first; equal scores in the order of the index.

    bm25s' own top-k leaves it to chance which of several equal scores it takes, and in what order.
    """
    count = min(count, len(scores))
    lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
    rows = np.flatnonzero(scores > max(lowest, 0))
    if lowest > 0:
        rows = np.concatenate([rows, np.flatnonzero(scores == lowest)[: count - len(rows)]])
    ordered: list[int] = rows[np.argsort(-scores[rows], kind="stable")].tolist()
    return ordered


@cache
def _stop_words(analyzer: Analyzer) -> frozenset[str]:
    from bm25s import stopwords

    language = "EN_PLUS" if analyzer.stemmer == "english" else analyzer.stemmer.upper()
    lists = (stopwords.STOPWORDS_CHINESE, getattr(stopwords, f"STOPWORDS_{language}", ()))  # of 12 languages
    return frozenset(word for words in lists for text in words for word in analyzer.words(text))


class Dense:
    """The chunks' vectors nearest to the query's, by FAISS. See `FirstStage`.

    Vectors have length 1, so that their product is the cosine.
    """

    def __init__(self, index: IndexReader, embedder: Embedder) -> None:
        faiss = _faiss()
        self._index, self._embedder = index, embedder
        self._vectors = faiss.read_index(str(index.folder / _FAISS), faiss.IO_FLAG_MMAP)

    @staticmethod
    def write(folder: Path, vectors: FloatArray, factory: str) -> None:
        """Index vectors of shape (chunks, dimensions); raises ConfigurationError if FAISS cannot."""
        faiss = _faiss()
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigurationError(f"FAISS cannot make {factory!r} of {len(vectors)} vectors: {reason}") from None
        faiss.write_index(index, str(folder / _FAISS))
        np.save(folder / VECTORS, vectors)  # `index add` starts from these: an index may keep less than was put in

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        vector = await self._embedder.embed([query], "query")
        return await asyncio.to_thread(self._search, vector, count, where)

    def _search(self, vector: FloatArray, count: int, where: Filter | None) -> list[Candidate]:
        if vector.shape[1] != self._vectors.d:
            said = "%s: of %d dimensions, and the query's vector has %d: it was built with another model"
            logger.error(said, self._index.folder, self._vectors.d, vector.shape[1])
            raise RetrievalError
        rows = self._index.rows(where)
        count = min(count, len(self._index.chunks) if rows is None else int(rows.sum()))
        if count == 0:
            return []
        faiss, index = _faiss(), _faiss().downcast_index(self._vectors)
        selector = None if rows is None else faiss.IDSelectorBitmap(np.packbits(rows, bitorder="little"))
        if isinstance(index, faiss.IndexHNSW):  # a search of the graph that is wide enough for so many
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=max(index.hnsw.efSearch, 2 * count))
        elif isinstance(index, faiss.IndexIVF):
            params = faiss.SearchParametersIVF(sel=selector, nprobe=max(index.nprobe, index.nlist // 16))
        else:
            params = faiss.SearchParameters(sel=selector)
        scores, places = self._vectors.search(vector, count, params=params)
        found = zip(scores[0].tolist(), places[0].tolist(), strict=True)
        return [Candidate(self._index.chunks[place], score) for score, place in found if place >= 0]


@cache
def _faiss() -> Any:  # Any: its type stubs know half of it
    import faiss  # here: commands that search nothing need not wait for it

    return faiss


class Hybrid:
    """Several first stages, fused by reciprocal rank. See `FirstStage`."""

    def __init__(self, *stages: FirstStage) -> None:
        self._stages = stages

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        """Ask all stages at once, each for so many candidates, and fuse what they find."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(stage.search(query, count, where)) for stage in self._stages]
        except ExceptionGroup as failures:  # several may fail; the client hears of the first
            raise failures.exceptions[0] from None
        return fuse([task.result() for task in tasks])[:count]


def fuse(rankings: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """Fuse rankings: a chunk's score is the sum of 1 / (60 + rank) over the rankings that have it.

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods, SIGIR 2009; the constant is theirs.
    """
    chunks = {(one.chunk.id, one.chunk.number): one.chunk for ranking in rankings for one in ranking}
    sums = dict.fromkeys(chunks, 0.0)
    for ranking in rankings:
        for rank, one in enumerate(ranking, start=1):
            sums[one.chunk.id, one.chunk.number] += 1 / (_RRF_CONSTANT + rank)
    return [Candidate(chunks[key], sums[key]) for key in sorted(sums, key=lambda key: -sums[key])]


class Milvus:
    """A collection of an existing Milvus, searched by vectors, by its own BM25, or by both. See `FirstStage`."""

    def __init__(self, config: MilvusConfig, secrets: Mapping[str, str], embedder: Embedder | None) -> None:
        """Connect; raises ConfigurationError if that fails, or there is no such collection or field."""
        from pymilvus import DataType, MilvusClient
        from pymilvus.exceptions import MilvusException

        self._config, self._embedder = config, embedder
        self._failures = (MilvusException, OSError)
        try:
            self._client = MilvusClient(
                config.uri, token=secrets.get(MILVUS_TOKEN, ""), db_name=config.database, timeout=config.timeout_s
            )
            if not self._client.has_collection(config.collection, timeout=config.timeout_s):
                raise ConfigurationError(f"Milvus at {config.uri} has no collection {config.collection}")
        except self._failures as error:
            raise ConfigurationError(f"Milvus at {config.uri} cannot be reached ({type(error).__name__})") from None
        described = self._client.describe_collection(config.collection)
        dynamic = described.get("enable_dynamic_field")
        types = {field["name"]: DataType(field["type"]) for field in described["fields"]}
        missing = {config.text_field, config.vector_field, config.words_field, config.id_field} - {None, *types}
        if missing and not (dynamic and missing <= {config.text_field, config.id_field}):
            raise ConfigurationError(f"Milvus: {config.collection} has no field {', '.join(sorted(map(str, missing)))}")
        # Not "*": the vectors would travel, too.
        self._fields = [name for name, kind in types.items() if "VECTOR" not in kind.name]
        self._fields += ["$meta"] if dynamic else []
        self._client.load_collection(config.collection)

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        expression = "" if where is None else _milvus_expression(where)
        data: dict[str, Any] = {}  # by the field that is searched with it
        if self._config.vector_field is not None:
            assert self._embedder is not None  # noqa: S101 - the configuration sees to it; for the type checker
            data[self._config.vector_field] = (await self._embedder.embed([query], "query"))[0].tolist()
        if self._config.words_field is not None:
            data[self._config.words_field] = query
        try:
            rankings = [await asyncio.to_thread(self._search, *one, count, expression) for one in data.items()]
        except self._failures as error:
            logger.warning("Milvus did not answer a search: %s", type(error).__name__)
            raise RetrievalError from None
        return rankings[0] if len(rankings) == 1 else fuse(rankings)[:count]

    def _search(self, field: str, data: Any, count: int, expression: str) -> list[Candidate]:
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
        known = {config.id_field, config.text_field, config.title_field, config.vector_field, config.words_field}
        metadata = {name: value for name, value in entity.items() if name not in known}
        text, title = (str(entity.get(name or "") or "") for name in (config.text_field, config.title_field))
        return Chunk(str(entity.get(config.id_field, key)), 0, text, title=title, metadata=metadata)


def _milvus_expression(where: Filter) -> str:
    """Write a filter in Milvus' language; raises InvalidRequestError if that cannot say it.

    Values are written as JSON, which Milvus reads, so that no string can end early. (Milvus before 2.5 and Milvus Lite
    have no templates, which would keep values apart.)
    """
    if not isinstance(where, Term):
        parts = [_milvus_expression(part) for part in where.parts]
        return f"not ({parts[0]})" if where.how == "$not" else f"({f' {where.how[1:]} '.join(parts)})"
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", where.field):
        raise InvalidRequestError("filter", "in Milvus, a field's name has letters, digits, _ and . only")
    place = re.sub(r"\.(\w+)", r'["\1"]', where.field)
    if where.operator == "$exists" or where.value is None:
        exists = where.value if where.operator == "$exists" else where.operator == "$ne"
        return f"{place} is {'not ' if exists else ''}null"
    if isinstance(where.value, list) and None in where.value:
        raise InvalidRequestError("filter", "in Milvus, null cannot be one of several values; use $exists and $or")
    return f"{place} {_MILVUS_OPERATORS[where.operator]} {json.dumps(where.value, ensure_ascii=False, allow_nan=False)}"
