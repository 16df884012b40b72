"""What the parts of retrieval have in common: documents, chunks, candidates, and the protocol of a first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from reranker.search.filters import Filter
from reranker.types import FloatArray

Metadata: TypeAlias = Mapping[str, Any]
"""What comes with a document besides its text. (Any: JSON.)"""
Kind: TypeAlias = Literal["query", "document"]
"""What a text is to an embedding model; many see a query with an instruction before it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    line: int | None = None
    """Of its file, from 1. None: it is all of it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document, as it is found and ranked."""

    id: str
    """The document's."""
    number: int
    """Of the chunk in its document, from 0."""
    text: str
    start: int = 0
    """Character of the document at which the text begins."""
    title: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def ranked_text(self) -> str:
        """What first stages and rerankers see: the title before the text."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that a first stage found."""

    chunk: Chunk
    score: float
    """The first stage's own: higher is better, and only comparable within one search."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a first stage found for one query, and where."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    index: str
    """Its name."""
    version: str
    """Of the index; empty where it has none."""
    first_stage: str

    @property
    def text_bytes(self) -> int:
        """Size of what is to be ranked."""
        return sum(len(one.chunk.ranked_text.encode()) for one in self.candidates)


class FirstStage(Protocol):
    """Finds candidates for a query."""

    name: str
    """As requests and answers name it: "bm25", "dense", "hybrid", "milvus"."""

    async def search(self, query: str, count: int, wanted: Filter | None = None) -> list[Candidate]:
        """Find the best chunks.

        Args:
            query: The query.
            count: How many, at most; fewer where fewer match.
            wanted: Only chunks whose metadata this lets through. None: all.

        Returns:
            Best first, no chunk twice.

        Raises:
            RetrievalError: What the first stage asks did not answer.
        """
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str], kind: Kind) -> FloatArray:
        """Embed texts; a text too long for the model is cut at its end.

        Returns:
            Shape (texts, dimensions), each of length 1.
        """
        ...
