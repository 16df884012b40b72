"""The frozen values that travel between the steps of one request, and between processes.

A list's prompts are flat token arrays: one copy per shard, sent as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

TruncationSide: TypeAlias = Literal["end", "start"]
"""The end of a document that is cut off."""
LongDocuments: TypeAlias = Literal["truncate", "windows"]
"""A document that does not fit one prompt is cut, or scored whole in overlapping windows."""
Aggregate: TypeAlias = Literal["max", "mean", "first"]
"""How the scores of a document's windows become one score."""
Priority: TypeAlias = Literal["interactive", "bulk"]
"""Somebody waits for the request, or it is a job that may take its time."""
CacheMode: TypeAlias = Literal["off", "read", "refresh"]
"""Neither use nor remember scores; only use them; only remember them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, and what they may. docs/keys.md says which ingress replicas share a limit."""

    name: str
    """For logs and metrics; never the key."""
    priority: Priority | None = None
    """"bulk": of all their requests. Otherwise they choose."""
    max_in_flight: int | None = None
    """Requests at the same time."""
    tokens_per_minute: int | None = None
    """Prompt tokens."""
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
    """What came with each document besides its text. Empty: nothing."""
    instruction: str | None = None
    top_n: int | None = None
    """None: all documents."""
    max_document_tokens: int | None = None
    """Every document is cut to so many tokens first."""
    truncation_side: TruncationSide | None = None
    long_documents: LongDocuments | None = None
    aggregate: Aggregate | None = None
    max_windows: int | None = None
    overlap_tokens: int | None = None
    score_threshold: float | None = None
    """Documents below this relevance score are left out."""
    priority: Priority = "interactive"
    timeout_s: float | None = None
    allow_partial: bool = False
    """When time is up, the answer has the documents scored so far."""
    cache: CacheMode | None = None
    """None: scores are used and remembered."""
    model: str | None = None
    """An adapter's name chooses the adapter; any other name, the model itself."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Pairs of one list, sent in one call to one replica.

    The prompt of pair i is `head + tokens[offsets[i]:offsets[i + 1]] + tail`.

    Attributes:
        head: Shape (head tokens,): system text, instruction and query, up to and including `<Document>:`.
        tail: Shape (tail tokens,).
        tokens: Shape (document tokens of all pairs,), one document after the other.
        offsets: Shape (pairs + 1,), rising from 0 to `len(tokens)`.
        adapter: Name of the LoRA adapter that scores them. Empty: the model itself.
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
        """Tokens of all prompts; the head counts for every pair, as it is billed."""
        return len(self) * (len(self.head) + len(self.tail)) + len(self.tokens)

    @property
    def work_tokens(self) -> int:
        """Tokens an engine computes: the head once, as the prefix cache keeps it. The measure of all load."""
        return len(self.head) + len(self) * len(self.tail) + len(self.tokens)

    @property
    def pair_tokens(self) -> list[int]:
        """Tokens each pair adds to a shard: its document and the tail."""
        lengths: list[int] = (np.diff(self.offsets) + len(self.tail)).tolist()
        return lengths

    def select(self, indices: Sequence[int]) -> Shard:
        """The pairs at these indices, in this order."""
        if len(indices) == len(self) and all(i == j for i, j in enumerate(indices)):
            return self
        documents = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        offsets = np.zeros(len(indices) + 1, dtype=np.int32)
        np.cumsum([len(document) for document in documents], out=offsets[1:])
        return Shard(self.head, self.tail, np.concatenate([self.tokens[:0], *documents]), offsets, self.adapter)


@dataclass(frozen=True, slots=True)
class RenderedList:
    """All prompts of one list, in the layout of a shard.

    Attributes:
        prompts: A document scored in windows has several pairs, one after the other.
        document_of_pair: Shape (pairs,), rising: index of each pair's document in the list.
        truncated: Indices of the documents that lost tokens.
    """

    prompts: Shard
    document_of_pair: TokenArray
    truncated: frozenset[int]

    def for_adapter(self, adapter: str) -> RenderedList:
        """The same prompts for this adapter. Empty: for the model itself."""
        return replace(self, prompts=replace(self.prompts, adapter=adapter)) if adapter else self


@dataclass(frozen=True, slots=True)
class ShardTerms:
    """How a replica is to treat a shard."""

    weight: float = 1.0
    """Share of the engine against other lists: twice the weight, twice the share."""
    timeout_s: float | None = None
    """Seconds the replica has. A pair that is not scored by then comes back unscored."""
    sender: str = ""
    """`Placement.sender` of who counts it as its own."""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has to do, and how fast it is."""

    pending_tokens: int = 0
    """Work tokens in its engine, waiting or being computed."""
    tokens_per_s: float | None = None
    """Work tokens it finishes in a second of work, lately. None: not known yet."""
    in_hand: Mapping[str, int] = field(default_factory=dict)
    """Work tokens of the shards it has not answered yet, by sender."""


@dataclass(frozen=True, slots=True)
class EngineScores:
    """Scores of pairs, as an engine gives them.

    Attributes:
        logits: Shape (pairs,), float32: logit("yes") - logit("no").
        scored: Shape (pairs,). False: time was up before this pair's turn; its logit means nothing.
        queue_s: Seconds until the first pair's turn.
        engine_s: Seconds from then to the last pair's score; other lists take turns in it.
    """

    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}  # transport/frames.py checks what arrives
    logits: FloatArray
    scored: BoolArray
    queue_s: float = 0.0
    engine_s: float = 0.0

    @classmethod
    def nothing(cls, pairs: int) -> Self:
        """So many pairs, none of them scored."""
        return cls(np.zeros(pairs, dtype=np.float32), np.zeros(pairs, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class ShardScores:
    """A replica's answer to a shard."""

    scores: EngineScores
    replica: str
    load: ReplicaLoad = ReplicaLoad()
    model: str = ""
    """Its engine's `reranker.model.checkpoint.model_identity`."""


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One line of an answer."""

    index: int
    """Position in `request.documents`."""
    relevance_score: float
    """In [0, 1]."""
    log_odds: float
    """logit("yes") - logit("no"); relevance_score is its sigmoid."""
    truncated: bool = False
    windows: int = 1
    """Its prompts."""


@dataclass(frozen=True, slots=True)
class ExcludedDocument:
    """A document that a rule took out of the answer."""

    index: int
    rule: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """A list's documents, best first, without what the rules exclude, cut to top_n."""

    results: tuple[RankedDocument, ...] = ()
    excluded: tuple[ExcludedDocument, ...] = ()
    prompt_tokens: int = 0
    truncated_documents: int = 0
    windowed_documents: int = 0
    """Documents of more than one prompt."""
    unscored: tuple[int, ...] = ()
    """Indices of documents that time was too short for; only with `allow_partial`."""
    deduplicated_pairs: int = 0
    """Prompts not scored because the list repeats their documents."""
    cached_documents: int = 0
    """Distinct documents whose score was known."""
    missed_documents: int = 0
    """Distinct documents whose score was looked for and not known."""
    coalesced_documents: int = 0
    """Distinct documents that another list was having scored."""
