"""The frozen values that travel between the steps of one request, and between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

TruncationSide: TypeAlias = Literal["end", "start"]  # the end of a document that is cut off
LongDocuments: TypeAlias = Literal["truncate", "windows"]  # what does not fit one prompt; windows overlap
Aggregate: TypeAlias = Literal["max", "mean", "first"]  # how the scores of a document's windows become one score
Priority: TypeAlias = Literal["interactive", "bulk"]  # somebody waits for it, or it may take its time
CacheMode: TypeAlias = Literal["off", "read", "refresh"]  # no cache; only use scores; only remember them


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from, and what they may. docs/keys.md says which ingress replicas share a limit."""

    name: str  # for logs and metrics; never the key
    priority: Priority | None = None  # "bulk": of all their requests. Otherwise they choose
    max_in_flight: int | None = None  # requests at the same time
    tokens_per_minute: int | None = None  # prompt tokens
    admin: bool = False
    metrics: bool = False  # may read `GET /metrics`
    complete: bool = False  # every document is in their answers: see `RankRequest.complete`


ANONYMOUS = Caller("anonymous")  # everybody, where there are no keys


@dataclass(frozen=True, slots=True)
class SpanTerms:
    """Which parts of a list's best documents are shown as evidence. None: as configured, or no limit."""

    threshold: float | None = None  # spans below this relevance score are left out
    max_spans: int | None = None  # of each document
    max_tokens: int | None = None  # of all documents' spans together


@dataclass(frozen=True, slots=True)
class RankRequest:
    """One query and its candidate documents, whatever dialect they came in. None: as configured."""

    query: str
    documents: tuple[str, ...]
    metadata: tuple[Mapping[str, object], ...] = ()  # what came with each document besides its text. Empty: nothing
    instruction: str | None = None
    top_n: int | None = None  # None: all documents
    max_document_tokens: int | None = None  # every document is cut to so many tokens first
    truncation_side: TruncationSide | None = None
    long_documents: LongDocuments | None = None
    aggregate: Aggregate | None = None
    max_windows: int | None = None
    overlap_tokens: int | None = None
    score_threshold: float | None = None  # documents below this relevance score are left out
    priority: Priority = "interactive"
    timeout_s: float | None = None
    allow_partial: bool = False  # when time is up, the answer has the documents scored so far
    complete: bool | None = None  # all documents are results: behind the ranked ones, what would have been left out
    cache: CacheMode | None = None  # None: scores are used and remembered
    model: str | None = None  # an adapter's name chooses the adapter; any other name, the model itself
    whole: bool = False  # a stage of a cascade: rules, threshold and `top_n` are for the final ranking, not for this
    spans: SpanTerms | None = None  # None: none are looked for


@dataclass(frozen=True, slots=True)
class Shard:
    """Pairs of one list, sent in one call to one replica; flat arrays go out as they lie in memory.

    The prompt of pair i is `head + tokens[offsets[i]:offsets[i + 1]] + tail`.
    """

    head: TokenArray  # shape (head tokens,): system text, instruction and query, up to and including `<Document>:`
    tail: TokenArray  # shape (tail tokens,)
    tokens: TokenArray  # shape (document tokens of all pairs,), one document after the other
    offsets: TokenArray  # shape (pairs + 1,), rising from 0 to `len(tokens)`
    adapter: str = ""  # name of the LoRA adapter that scores them. Empty: the model itself

    @classmethod
    def of(cls, head: TokenArray, tail: TokenArray, documents: Sequence[TokenArray], adapter: str = "") -> Self:
        offsets = np.zeros(len(documents) + 1, dtype=np.int32)
        np.cumsum([len(document) for document in documents], out=offsets[1:])
        return cls(head, tail, np.concatenate([head[:0], *documents]), offsets, adapter)

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
        return (np.diff(self.offsets) + len(self.tail)).tolist()  # type: ignore[no-any-return]

    def select(self, indices: Sequence[int]) -> Shard:
        """The pairs at these indices, in this order."""
        if len(indices) == len(self) and all(i == j for i, j in enumerate(indices)):
            return self
        documents = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        return Shard.of(self.head, self.tail, documents, self.adapter)


@dataclass(frozen=True, slots=True)
class RenderedList:
    """All prompts of one list, in the layout of a shard."""

    prompts: Shard  # a document scored in windows has several pairs, one after the other
    document_of_pair: TokenArray  # shape (pairs,), rising: index of each pair's document in the list
    truncated: frozenset[int]  # indices of the documents that lost tokens

    def for_adapter(self, adapter: str) -> RenderedList:
        return replace(self, prompts=replace(self.prompts, adapter=adapter)) if adapter else self


@dataclass(frozen=True, slots=True)
class ShardTerms:
    """How a replica is to treat a shard."""

    weight: float = 1.0  # share of the engine against other lists: twice the weight, twice the share
    timeout_s: float | None = None  # seconds the replica has. A pair that is not scored by then comes back unscored
    sender: str = ""  # `Placement.sender` of who counts it as its own
    request_id: str = ""
    list_id: str = (
        ""  # the same for all shards of a list, which have one list's share together. Empty: a list of its own
    )


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What an engine scores with, as it says itself. Empty: it does not say."""

    identity: str = ""  # `reranker.model.checkpoint.model_identity`: equal only if every score is
    name: str = ""  # in answers
    takes: str = ""  # digest of what lists it can score: how prompts are made, and the names of its adapters
    deployed: str = ""  # digest of its settings: what an ingress can know of the engines of its own deployment


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has to do, and how fast it is."""

    pending_tokens: int = 0  # work tokens in its engine, waiting or being computed
    tokens_per_s: float | None = None  # work tokens it finishes in a second of work, lately. None: not known yet
    in_hand: Mapping[str, int] = field(default_factory=dict)  # work tokens of its unanswered shards, by sender


@dataclass(frozen=True, slots=True)
class EngineScores:
    """Scores of pairs, as an engine gives them."""

    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}  # transport/frames.py checks what arrives
    logits: FloatArray  # shape (pairs,): logit("yes") - logit("no")
    scored: BoolArray  # shape (pairs,). False: time was up before this pair's turn; its logit means nothing
    queue_s: float = 0.0  # until the first pair's turn
    engine_s: float = 0.0  # from then to the last pair's score; other lists take turns in it

    @classmethod
    def nothing(cls, pairs: int) -> Self:
        return cls(np.zeros(pairs, dtype=np.float32), np.zeros(pairs, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class ShardScores:
    """A replica's answer to a shard."""

    scores: EngineScores
    replica: str
    load: ReplicaLoad = ReplicaLoad()
    model: str = ""  # its engine's `reranker.model.checkpoint.model_identity`


class Span(NamedTuple):
    """A part of a document, `[start, end)` in code points, with its own score: on the scale of documents' scores."""

    start: int
    end: int
    relevance_score: float
    log_odds: float


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One line of an answer."""

    index: int  # position in `request.documents`
    relevance_score: float  # in [0, 1]
    log_odds: float  # the model's logit: logit("yes") - logit("no"), or its head's; of it relevance_score is made
    truncated: bool = False
    windows: int = 1  # its prompts
    spans: tuple[Span, ...] = ()  # best first; of the text that was scored


@dataclass(frozen=True, slots=True)
class ExcludedDocument:
    """A document that a rule took out of the answer."""

    index: int
    rule: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Which models of a cascade ranked which documents of a list."""

    first: str
    then: str
    ranked_again: tuple[int, ...] = ()  # indices, rising, of the documents that the second model ranked
    missed: str = ""  # `code` of the error for which the second model ranked none. Empty: it did all it was to


@dataclass(frozen=True, slots=True)
class Ranking:
    """A list's documents, best first, without what the rules exclude, cut to top_n; a complete one has them all."""

    results: tuple[RankedDocument, ...] = ()
    excluded: tuple[ExcludedDocument, ...] = ()
    prompt_tokens: int = 0
    truncated_documents: int = 0
    windowed_documents: int = 0  # documents of more than one prompt
    unscored: tuple[int, ...] = ()  # indices of documents that time was too short for; only with `allow_partial`
    cut_off: tuple[int, ...] = ()  # indices of results beyond top_n; only where the answer is complete
    deduplicated_pairs: int = 0  # prompts not scored because the list repeats their documents
    model: str = ""  # name of the model or adapter that scored all of them. Empty: it did not say
    cached_documents: int = 0  # distinct documents whose score was known
    missed_documents: int = 0  # distinct documents whose score was looked for and not known
    coalesced_documents: int = 0  # distinct documents that another list was having scored
    stages: Stages | None = None  # of a cascade
    spans_unscored: tuple[int, ...] = ()  # indices of results in which there was no time to look for spans
    ranked: tuple[RankedDocument, ...] = ()  # all that have a score, best first, before rules, threshold and top_n
