"""A double of an embedding model, for tests and services with simulated engines: words, hashed into a vector.

Texts that share words are near each other; that is all it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from reranker.search.base import Kind
from reranker.search.words import WordRules
from reranker.types import FloatArray

SIMULATED = "simulated"
"""The name under which it is asked for as an embedding model."""
_DIMENSIONS = 256


class SimulatedEmbedder:
    """See `reranker.search.base.Embedder`."""

    async def embed(self, texts: Sequence[str], kind: Kind) -> FloatArray:
        """Hash the words of texts."""
        return vectors(texts)


def vectors(texts: Sequence[str]) -> FloatArray:
    """Hash the words of texts: shape (texts, dimensions)."""
    return np.stack([_vector(text) for text in texts])


def _vector(text: str) -> FloatArray:
    vector = np.zeros(_DIMENSIONS, dtype=np.float32)
    vector[0] = 1e-3  # a text without words has a direction, too
    for word in WordRules().split(text):
        number = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
        vector[number % _DIMENSIONS] += 1 if number >> 63 else -1
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else np.eye(1, _DIMENSIONS, dtype=np.float32)[0]
