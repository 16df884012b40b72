"""What an index says of itself: how it was made and what is in it. `index.json` of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from reranker.errors import ConfigurationError
from reranker.search.chunking import ChunkRules
from reranker.search.sources import TextFields
from reranker.search.words import WordRules

FORMAT = 1
FILE = "index.json"


class EmbeddingFacts(BaseModel):
    """The model that an index's vectors come from; queries must be embedded by the same."""

    model_config = ConfigDict(frozen=True)
    model: str
    """As it was given: a local folder or a hub id."""
    revision: str | None = None
    dimensions: int = 0
    factory: str = "Flat"
    """FAISS's description of its index: "Flat" searches exactly."""


class IndexFacts(BaseModel):
    """How an index was made, and what is in it."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    built_at: str = ""
    """UTC, ISO 8601."""
    documents: int = 0
    chunks: int = 0
    left_out: int = 0
    """Lines and files that could not be read; `left_out.jsonl` lists them."""
    tokenizer: str = "demo"
    """The model whose tokenizer counts the tokens of a chunk."""
    chunking: ChunkRules = ChunkRules()
    words: WordRules = WordRules()
    fields: TextFields = TextFields()
    embedding: EmbeddingFacts | None = None
    """None: it has no vectors."""

    @classmethod
    def read(cls, version: Path) -> Self:
        """Read those of a version.

        Raises:
            ConfigurationError: It is not one that this release can read.
        """
        try:
            facts = cls.model_validate_json((version / FILE).read_bytes())
        except (OSError, ValidationError):
            raise ConfigurationError(f"{version}: its {FILE} is missing or not one of ours") from None
        if facts.format != FORMAT:
            said = f"{version}: of format {facts.format}, and this release reads {FORMAT}"
            raise ConfigurationError(f"{said}; build the index again")
        return facts
