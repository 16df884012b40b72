"""A few documents, and indexes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reranker.search.build import Build
from reranker.search.documents import find_sources
from reranker.search.embedding import SIMULATED, simulated_vectors
from reranker.search.first_stages import TextKind
from reranker.search.index import EmbeddingInfo, IndexFolder, IndexInfo
from reranker.types import FloatArray

DOCUMENTS = [
    {"id": "whale", "title": "Moby-Dick", "text": "A captain hunts a white whale.", "lang": "en", "year": 1851},
    {"id": "sea", "text": "The sea and the whale, two of many. " * 4, "lang": "en", "year": 1952},
    {"id": "wal", "text": "Der Wal und das Meer: two words about a whale", "lang": "de", "year": 1900},
    {"id": "match", "text": "A young woman makes matches.", "lang": "en", "year": 1815},
]


class SimulatedEmbedder:
    """Embeds as `simulated_vectors` does. See `Embedder`."""

    async def embed(self, texts: Sequence[str], kind: TextKind) -> FloatArray:
        return simulated_vectors(texts)


def build(index: Path, documents: Sequence[dict[str, Any]], *, vectors: bool = True) -> Path:
    """Index documents."""
    index.parent.mkdir(exist_ok=True, parents=True)
    lines = index.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(one) + "\n" for one in documents))
    info = IndexInfo(embedding=EmbeddingInfo(model=SIMULATED) if vectors else None)
    with IndexFolder(index).locked():
        Build(IndexFolder(index), find_sources([lines]), info, embed=simulated_vectors if vectors else None).run()
    return index
