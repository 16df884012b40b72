"""What makes two scores the same: everything that can change one, length-prefixed and hashed.

A key is made of texts and not of tokens, so that a list whose scores are known is not tokenized (docs/decisions/0004).
Of its 24 bytes the first 8 are the list's (model, instruction, query, …), so that a Redis cluster keeps the pairs of
one query on one node. The others are the pair's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b

from reranker.model.prompt import CuttingPolicy

LIST_BYTES, PAIR_BYTES = 8, 16
MAX_SECRET_BYTES = 64  # the longest key of blake2b


@dataclass(frozen=True, slots=True)
class ListTerms:
    """What all pairs of a list share, as far as it can change a score."""

    model: str  # `reranker.model.checkpoint.model_identity` of the engines
    prompts: str  # `PromptRenderer.fingerprint`
    namespace: str  # whose scores these are. Empty: everybody's
    instruction: str
    query: str
    cutting: CuttingPolicy
    adapter: str = ""  # the adapter's name; its weights are a part of the model's identity


def document_keys(terms: ListTerms, documents: Sequence[str], secret: bytes = b"") -> list[bytes]:
    """Make the key of each document of a list; the secret, of at most `MAX_SECRET_BYTES`, keys the hash."""
    state = blake2b(digest_size=PAIR_BYTES, key=secret)
    cutting = (str(getattr(terms.cutting, one.name)) for one in fields(CuttingPolicy))
    for part in (terms.model, terms.prompts, terms.namespace, terms.instruction, terms.query, *cutting, terms.adapter):
        state.update(_prefixed(part))
    of_list = state.digest()[:LIST_BYTES]
    keys = []
    for document in documents:
        pair = state.copy()
        pair.update(_prefixed(document))
        keys.append(of_list + pair.digest())
    return keys


def _prefixed(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content
