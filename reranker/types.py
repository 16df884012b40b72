"""The frozen values that travel between the steps of one request, and between processes.

A list's prompts are flat token arrays, not lists of lists: one copy per shard, and they travel as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

TruncationSide: TypeAlias = Literal["end", "start"]
"""Which end of a document is cut off."""
LongDocuments: TypeAlias = Literal["truncate", "windows"]
"""What happens to a document that does not fit one prompt: cut, or scored whole in overlapping windows."""
Aggregate: TypeAlias = Literal["max", "mean", "first"]
"""How the scores of a document's windows become the document's."""
Priority: TypeAlias = Literal["interactive", "bulk"]
"""Class of a request: somebody waits for it, or a job that may take its time."""
CacheMode: TypeAlias = Literal["off", "read", "refresh"]
"""What a request allows less than everything: neither use nor remember scores, only use them, only remember them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, and what they may."""

    name: str
    """For logs and metrics; never the key."""
    priority: Priority | None = None
    """"bulk": all their requests are. Otherwise they choose."""
    max_in_flight: int | None = None
    """Requests at the same time; docs/keys.md says in how many ingress replicas together."""
    tokens_per_minute: int | None = None
    """Prompt tokens; likewise."""
    admin: bool = False
    metrics: bool = False
    """May read `GET /metrics`."""


ANONYMOUS = Caller("anonymous")
"""Everybody, where there are no keys."""


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
    priority: Priority = "interactive"
    timeout_s: float | None = None
    """Seconds the client gives the list."""
    allow_partial: bool = False
    """When time is up, answer with the documents scored so far."""
    cache: CacheMode | None = None
    """None: scores are used and remembered."""
    model: str | None = None
    """As the client names it. An adapter's name chooses the adapter; whatever else it is, the model itself."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Pairs of one list, sent in one call to one replica.

    The prompt of pair i is `head + tokens[offsets[i]:offsets[i + 1]] + tail`.

    Attributes:
        head: Shape (head tokens,): system text, instruction and query, up to and including `<Document>:`.
        tail: Shape (tail tokens,): what follows every document.
        tokens: Shape (document tokens of all pairs,), one document after the other.
        offsets: Shape (pairs + 1,), rising from 0 to `len(tokens)`.
        adapter: Name of the LoRA adapter that scores them; empty: the model itself.
    """

    head: TokenArray
    tail: TokenArray
    tokens: TokenArray
    offsets: TokenArray
    adapter: str = ""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts together; the shared head counts once per pair, as every pair is billed for it."""
        return len(self) * (len(self.head) + len(self.tail)) + len(self.tokens)

    @property
    def work_tokens(self) -> int:
        """Tokens an engine computes: the shared head once, as the prefix cache keeps it. The measure of all load."""
        return len(self.head) + len(self) * len(self.tail) + len(self.tokens)

    @property
    def pair_tokens(self) -> list[int]:
        """Tokens each pair adds to a shard: its document and the tail. The head is computed once per shard."""
        lengths: list[int] = (np.diff(self.offsets) + len(self.tail)).tolist()
        return lengths

    def select(self, indices: Sequence[int]) -> Shard:
        """Cut out the pairs at these indices, in this order."""
        if len(indices) == len(self) and all(i == j for i, j in enumerate(indices)):
            return self
        documents = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        offsets = np.zeros(len(indices) + 1, dtype=np.int32)
        np.cumsum([len(document) for document in documents], out=offsets[1:])
        return Shard(self.head, self.tail, np.concatenate([self.tokens[:0], *documents]), offsets, self.adapter)


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

    def for_adapter(self, adapter: str) -> RenderedList:
        """The same prompts, to be scored with this adapter; empty: with the model itself."""
        return replace(self, prompts=replace(self.prompts, adapter=adapter)) if adapter else self


@dataclass(frozen=True, slots=True)
class ShardTerms:
    """How one shard is to be treated in the replica that gets it."""

    weight: float = 1.0
    """Share of the engine against other lists: twice the weight, twice the share."""
    timeout_s: float | None = None
    """Seconds the replica has; what is not scored by then comes back unscored."""
    sender: str = ""
    """Who counts it as its own: `Placement.sender`."""
    request_id: str = ""
    """The request it is a part of; for logs."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has to do, and how fast it does it."""

    pending_tokens: int = 0
    """Work tokens of the pairs in its engine, waiting or being computed."""
    tokens_per_s: float | None = None
    """Work tokens it finishes in a second of work, lately. None: not known yet."""
    in_hand: Mapping[str, int] = field(default_factory=dict)
    """Work tokens of the shards it has not answered yet, by who sent them."""


@dataclass(frozen=True, slots=True)
class EngineScores:
    """Scores of pairs, as an engine gives them.

    Attributes:
        logits: Shape (pairs,), float32, in the pairs' order: logit("yes") - logit("no").
        scored: Shape (pairs,). False: time was up before this pair's turn; its logit means nothing.
        queue_s: Seconds they waited before the first pair's turn.
        engine_s: Seconds from then until the last was scored; other lists take turns in it.
    """

    logits: FloatArray
    scored: BoolArray
    queue_s: float = 0.0
    engine_s: float = 0.0

    @classmethod
    def nothing(cls, pairs: int) -> Self:
        """Of so many pairs, none scored."""
        return cls(np.zeros(pairs, dtype=np.float32), np.zeros(pairs, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class ShardScores:
    """What a replica answers to a shard: its engine's scores, who it is, and how loaded it is now."""

    scores: EngineScores
    replica: str
    load: ReplicaLoad = ReplicaLoad()
    model: str = ""
    """Digest of what its engine holds: `reranker.model.checkpoint.model_identity`."""


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
    """A whole list, scored, best first, without what the rules exclude, cut to top_n.

    What it took (shards, replicas, retries, hedges) is in the request's record.
    """

    results: tuple[RankedDocument, ...] = ()
    excluded: tuple[ExcludedDocument, ...] = ()
    prompt_tokens: int = 0
    truncated_documents: int = 0
    windowed_documents: int = 0
    """Documents that took more than one prompt."""
    unscored: tuple[int, ...] = ()
    """Documents that time did not suffice for, by index; only with `allow_partial`."""
    deduplicated_pairs: int = 0
    """Prompts not scored because the list repeats their documents."""
    cached_documents: int = 0
    """Distinct documents whose score was remembered."""
    missed_documents: int = 0
    """Distinct documents whose score was looked for in vain."""
    coalesced_documents: int = 0
    """Distinct documents that another list was having scored."""
