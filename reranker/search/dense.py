"""Dense search: the query's vector against those of the chunks, by FAISS.

Vectors have length 1, so their product is the cosine.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reranker.errors import ConfigurationError
from reranker.search.base import Candidate, Embedder
from reranker.search.filters import Filter
from reranker.types import BoolArray, FloatArray

if TYPE_CHECKING:
    from reranker.search.opened import OpenIndex

VECTORS, INDEX = "vectors.npy", "faiss.index"


def write(folder: Path, vectors: FloatArray, factory: str) -> None:
    """Index vectors, in their order, into a folder.

    Args:
        folder: Where to.
        vectors: Shape (chunks, dimensions), of length 1 each.
        factory: FAISS's description of the index: "Flat" searches exactly; "HNSW32", "IVF4096,SQ8" … faster.

    Raises:
        ConfigurationError: FAISS knows no such index, or cannot make it of so few vectors.
    """
    faiss = _faiss()
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigurationError(f"FAISS cannot make {factory!r} of {len(vectors)} vectors: {reason}") from None
    faiss.write_index(index, str(folder / INDEX))
    np.save(folder / VECTORS, vectors)  # what `index add` starts from: an index may keep less than was put in


def count(folder: Path) -> int:
    """How many vectors an index has."""
    faiss = _faiss()
    return int(faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP).ntotal)


class Dense:
    """See `reranker.search.base.FirstStage`."""

    name = "dense"

    def __init__(self, index: OpenIndex, embedder: Embedder) -> None:
        """Open an index's vectors.

        Raises:
            ConfigurationError: It has none.
        """
        faiss = _faiss()
        if index.facts.embedding is None:
            raise ConfigurationError(f"{index.folder}: has no vectors; build it with --embedding MODEL")
        self._index = index
        self._embedder = embedder
        self._vectors = faiss.read_index(str(index.folder / INDEX), faiss.IO_FLAG_MMAP)

    async def search(self, query: str, count: int, wanted: Filter | None = None) -> list[Candidate]:
        """Find the chunks nearest to the query; in a thread, once it is embedded."""
        vector = await self._embedder.embed([query], "query")
        return await asyncio.to_thread(self._search, vector, count, wanted)

    def _search(self, vector: FloatArray, count: int, wanted: Filter | None) -> list[Candidate]:
        rows = self._index.rows.rows(wanted)
        if rows is not None:
            count = min(count, int(rows.sum()))
        count = min(count, len(self._index.chunks))
        if count == 0:
            return []
        if vector.shape[1] != self._vectors.d:
            said = f"{self._index.folder}: of {self._vectors.d} dimensions, and the query's vector has"
            raise ConfigurationError(f"{said} {vector.shape[1]}: it was built with another model")
        scores, places = self._vectors.search(vector, count, params=_parameters(self._vectors, rows, count))
        found = zip(scores[0].tolist(), places[0].tolist(), strict=True)
        return [Candidate(self._index.chunks[place], score) for score, place in found if place >= 0]


def _parameters(index: Any, rows: BoolArray | None, count: int) -> Any:  # Any: faiss is untyped
    """How FAISS is to search: only these rows, and, where it searches a graph, widely enough for so many."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    selector = None if rows is None else faiss.IDSelectorBitmap(np.packbits(rows, bitorder="little"))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=max(index.hnsw.efSearch, 2 * count))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=max(index.nprobe, index.nlist // 16))
    return faiss.SearchParameters(sel=selector)


@cache
def _faiss() -> Any:  # Any: its type stubs know half of it
    import faiss  # here: commands that search nothing need not wait for it

    return faiss
