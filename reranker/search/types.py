"""The values that search passes on, documents, chunks and candidates, and its two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from reranker.search.filters import Filter
from reranker.types import FloatArray

Metadata: TypeAlias = Mapping[str, Any]
"""What comes with a document besides its text. (Any: JSON.)"""
TextKind: TypeAlias = Literal["query", "document"]
"""What an embedding model is given; many want an instruction before a query."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a source has it."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    line: int | None = None
    """Line of its file, from 1. None: the document is the whole file."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; chunks are what is found and ranked."""

    id: str
    """The document's."""
    number: int
    """Place of the chunk in its document, from 0."""
    text: str
    start: int = 0
    """Character of the document at which the text begins."""
    title: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def ranked_text(self) -> str:
        """The title and the text, as first stages and rerankers see them."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """What a search is for."""

    text: str
    count: int
    """The most candidates to find."""
    index: str | None = None
    """None: the first that is configured."""
    first_stage: str | None = None
    """None: the index's default."""
    where: Filter | None = None
    """The filter that chunks must pass. None: all chunks pass."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that a first stage found."""

    chunk: Chunk
    score: float
    """The first stage's own: higher is better, and only comparable within one search."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The candidates for one query."""

    candidates: tuple[Candidate, ...] = ()
    """Best first."""
    index: str = ""
    """Name of the index that was searched."""
    version: str = ""
    """Version of the index; empty where it has none."""
    first_stage: str = ""

    @property
    def text_bytes(self) -> int:
        """Size of the texts to be ranked."""
        return sum(len(one.chunk.ranked_text.encode()) for one in self.candidates)


class FirstStage(Protocol):
    """Finds candidates for a query."""

    name: str
    """As requests and answers name it: "bm25", "dense", "hybrid", "milvus"."""

    async def search(self, query: str, count: int, where: Filter | None = None) -> list[Candidate]:
        """Find the best chunks.

        Args:
            query: The query.
            count: The most to find; fewer where fewer match.
            where: The filter that chunks must pass. None: all chunks pass.

        Returns:
            Best first, no chunk twice.

        Raises:
            RetrievalError: A service that the first stage needs did not answer.
        """
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        """Embed texts.

        Returns:
            Shape (texts, dimensions), each vector of length 1.

        Raises:
            RetrievalError: The embedding model did not answer.
        """
        ...
