"""One version of an index, opened to be searched."""

from __future__ import annotations

from pathlib import Path

from reranker.search import dense
from reranker.search.base import Embedder, FirstStage
from reranker.search.bm25 import Bm25
from reranker.search.chunkfile import ChunkFile
from reranker.search.dense import Dense
from reranker.search.facts import IndexFacts
from reranker.search.hybrid import Hybrid
from reranker.search.rows import RowFilter


class OpenIndex:
    """The chunks of one version, and what is known of them."""

    def __init__(self, version: Path) -> None:
        """Open it.

        Raises:
            ConfigurationError: It is damaged, or of another release.
        """
        self.folder = version
        self.facts = IndexFacts.read(version)
        self.chunks = ChunkFile(version)
        self.rows = RowFilter(self.chunks)

    def check_integrity(self) -> None:
        """Compare what the parts of the index say.

        Raises:
            RuntimeError: They are not of the same chunks, or a chunk is there twice.
        """
        seen = {(chunk.id, chunk.number) for chunk in self.chunks}
        if len(seen) != len(self.chunks):
            raise RuntimeError(f"{len(self.chunks) - len(seen)} chunks are there twice. This is a bug")
        counts = {"facts": self.facts.chunks, "chunks": len(self.chunks), "bm25": len(Bm25(self))}
        if self.facts.embedding is not None:
            counts["vectors"] = dense.count(self.folder)
        if len(set(counts.values())) != 1 or len({name for name, _ in seen}) != self.facts.documents:
            raise RuntimeError(f"the parts of the index do not agree: {counts}. This is a bug")


def first_stages(index: OpenIndex, embedder: Embedder | None) -> dict[str, FirstStage]:
    """Give the first stages that an index can be searched with, by their names, the best first.

    Args:
        index: What is searched.
        embedder: Of the model that the index's vectors come from. None: there is none.
    """
    bm25 = Bm25(index)
    if embedder is None or index.facts.embedding is None:
        return {"bm25": bm25}
    vectors = Dense(index, embedder)
    return {"hybrid": Hybrid(bm25, vectors), "bm25": bm25, "dense": vectors}
