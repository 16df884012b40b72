"""The frozen values that travel between the steps of one request, and between processes.

A list's prompts are flat token arrays, not lists of lists: one copy per shard, and pickle moves them as buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]


TruncationSide: TypeAlias = Literal["end", "start"]
"""Which end of a document is cut off."""
LongDocuments: TypeAlias = Literal["truncate", "windows"]
"""What happens to a document that does not fit one prompt: cut, or scored whole in overlapping windows."""
Aggregate: TypeAlias = Literal["max", "mean", "first"]
"""How the scores of a document's windows become the document's."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    """One query and its candidate documents, whatever dialect they came in. None: as configured."""

    query: str
    documents: tuple[str, ...]
    metadata: tuple[Mapping[str, object], ...] = ()
    """What came with each document besides its text; empty: nothing came with any."""
    instruction: str | None = None
    top_n: int | None = None
    """None: all documents."""
    max_document_tokens: int | None = None
    """Cut every document to so many tokens before anything else. None: not cut."""
    truncation_side: TruncationSide | None = None
    long_documents: LongDocuments | None = None
    aggregate: Aggregate | None = None
    max_windows: int | None = None
    overlap_tokens: int | None = None
    score_threshold: float | None = None
    """Leave out documents below this relevance score."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Pairs of one list, sent in one call to one replica.

    The prompt of pair i is `head + tokens[offsets[i]:offsets[i + 1]] + tail`.

    Attributes:
        head: Shape (head tokens,): system text, instruction and query, up to and including `<Document>:`.
        tail: Shape (tail tokens,): what follows every document.
        tokens: Shape (document tokens of all pairs,), one document after the other.
        offsets: Shape (pairs + 1,), rising from 0 to `len(tokens)`.
    """

    head: TokenArray
    tail: TokenArray
    tokens: TokenArray
    offsets: TokenArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts together; the shared head counts once per pair, as every pair is billed for it."""
        return len(self) * (len(self.head) + len(self.tail)) + len(self.tokens)


@dataclass(frozen=True, slots=True)
class RenderedList:
    """All prompts of one list, in the layout of a shard, and which document each belongs to.

    Attributes:
        prompts: One prompt per pair; a document scored in windows has several pairs, one after the other.
        document_of_pair: Shape (pairs,), rising: index of each pair's document in the list.
        truncated: Indices of the documents that lost tokens.
    """

    prompts: Shard
    document_of_pair: TokenArray
    truncated: frozenset[int]

    @property
    def pair_tokens(self) -> list[int]:
        """Tokens each pair adds to a shard: its document and the tail. The head is computed once per shard."""
        tail = len(self.prompts.tail)
        return [int(n) + tail for n in np.diff(self.prompts.offsets)]

    def shard(self, indices: Sequence[int]) -> Shard:
        """Cut out the pairs at these indices, in this order."""
        whole = self.prompts
        if len(indices) == len(whole) and all(i == j for i, j in enumerate(indices)):
            return whole
        documents = [whole.tokens[whole.offsets[i] : whole.offsets[i + 1]] for i in indices]
        offsets = np.zeros(len(indices) + 1, dtype=np.int32)
        np.cumsum([len(document) for document in documents], out=offsets[1:])
        return Shard(whole.head, whole.tail, np.concatenate(documents), offsets)


@dataclass(frozen=True, slots=True)
class ShardScores:
    """What a replica answers to a shard.

    Attributes:
        logits: Shape (pairs,), float32, in the shard's order: logit("yes") - logit("no").
        replica: Which replica scored it.
    """

    logits: FloatArray
    replica: str


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One line of the answer."""

    index: int
    """Position in `request.documents`."""
    relevance_score: float
    """In [0, 1]."""
    log_odds: float
    """logit("yes") - logit("no"); relevance_score is its sigmoid."""
    truncated: bool = False
    windows: int = 1
    """Prompts it took to score the document."""


@dataclass(frozen=True, slots=True)
class ExcludedDocument:
    """A document that a rule took out of the answer."""

    index: int
    rule: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """A whole list, scored, best first, without what the rules exclude, cut to top_n; and what it took."""

    results: tuple[RankedDocument, ...]
    excluded: tuple[ExcludedDocument, ...]
    prompt_tokens: int
    pairs: int
    """Prompts scored: documents, and windows of long ones."""
    truncated_documents: int
    windowed_documents: int
    """Documents that took more than one prompt."""
    shards: int
    replicas: int
    """Distinct replicas that worked on the list."""
