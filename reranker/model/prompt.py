"""Make the prompts of a list: (instruction, query, document) -> token ids, in the layout of a shard.

A prompt is head + document + tail, as the family's template makes them. The head is encoded once per list, the
documents in one batch call, and the tail is constant. Only documents are ever cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from reranker.config import LongDocumentsConfig, ModelConfig
from reranker.errors import QueryTooLongError
from reranker.model.checkpoint import Checkpoint
from reranker.model.families import FAMILIES, Template
from reranker.model.tokenizer import EncodedTexts
from reranker.types import LongDocuments, RankRequest, RenderedList, Shard, TokenArray, TruncationSide

_CHARACTERS_PER_TOKEN = (8, 64)
"""How much of a long text is looked at: first so many characters for each token that can be used, which suffices for
anything written; then so many, for runs of spaces or dashes. What lies beyond is cut off unread."""
_MOST_TOKENS = 2**21
"""Read from the end of a document, at most, where its windows begin somewhere within: 256 of 8,192."""
_UNSURE_TOKENS = 64
"""Where a text is clipped, so many tokens may differ from the whole text's."""


class Cut(NamedTuple):
    """The windows of a document that are scored."""

    spans: tuple[tuple[int, int], ...]  # [start, end) of each window, in tokens
    truncated: bool  # some token is in no window


@dataclass(frozen=True, slots=True)
class CuttingPolicy:
    """How documents that are too long are cut."""

    mode: LongDocuments = "truncate"
    side: TruncationSide = "end"
    max_document_tokens: int | None = None  # limit for every document, before anything else. None: no limit
    window_tokens: int | None = None  # None: as many as fit the prompt
    overlap_tokens: int = 0
    max_windows: int = 1

    @classmethod
    def of(cls, request: RankRequest, config: LongDocumentsConfig) -> Self:
        """The request's settings where it has any, else the configuration's."""
        return cls(
            mode=request.long_documents or config.mode,
            side=request.truncation_side or config.truncation_side,
            max_document_tokens=request.max_document_tokens,
            window_tokens=config.window_tokens,
            overlap_tokens=config.overlap_tokens if request.overlap_tokens is None else request.overlap_tokens,
            max_windows=min(request.max_windows or config.max_windows, config.max_windows),
        )

    def cut(self, tokens: int, room: int) -> Cut:
        """Cut a document of so many tokens; `room` (at least 1) of them fit a prompt."""
        capped = _truncate(tokens, self.max_document_tokens or max(tokens, 1), self.side)
        [(offset, end)] = capped.spans
        if self.mode == "truncate":
            inner = _truncate(end - offset, room, self.side)
        else:
            window = min(room, self.window_tokens or room)
            inner = _overlapping(end - offset, window, self.overlap_tokens, self.max_windows)
        spans = tuple((offset + start, offset + stop) for start, stop in inner.spans)
        return Cut(spans, capped.truncated or inner.truncated)

    def uncut(self, room: int) -> int:
        """Tell how many tokens a document may have that stays whole, in one pair."""
        window = room if self.mode == "truncate" else min(room, self.window_tokens or room)
        return min(self.max_document_tokens or sys.maxsize, window)

    def reach(self, room: int) -> tuple[int, TruncationSide]:
        """Tell how many tokens of a document matter, and from which end: what lies beyond never changes a cut."""
        capped = self.max_document_tokens or sys.maxsize
        if self.mode == "truncate":
            return min(capped, room) + 1, self.side
        if self.max_document_tokens is not None and self.side == "start":  # windows from somewhere within
            return min(capped, _MOST_TOKENS) + 1, "start"
        return min(capped, min(room, self.window_tokens or room) * self.max_windows) + 1, "end"


CUT_THE_END = CuttingPolicy()


def _truncate(tokens: int, limit: int, side: TruncationSide) -> Cut:
    """One window of at most `limit` tokens; `side` is the end that is cut off."""
    if tokens <= limit:
        return Cut(((0, tokens),), truncated=False)
    return Cut(((0, limit),) if side == "end" else ((tokens - limit, tokens),), truncated=True)


def _overlapping(tokens: int, window: int, overlap: int, max_windows: int) -> Cut:
    """Cover a document with windows that share at least `overlap` tokens, but at most half a window.

    The last window ends with the document and is as long as the others: a short rest would be scored without context.
    What lies beyond `max_windows` is cut off.
    """
    if tokens <= window:
        return Cut(((0, tokens),), truncated=False)
    step = window - min(overlap, window // 2)
    starts = [*range(0, tokens - window, step), tokens - window]
    kept = starts[:max_windows]
    return Cut(tuple((start, start + window) for start in kept), truncated=len(kept) < len(starts))


class PromptRenderer:
    """Makes the prompts of a list. Holds no state between lists; safe to call from several threads."""

    def __init__(
        self,
        folder: Path,
        max_pair_tokens: int,  # of a prompt, template included
        default_instruction: str,
        template: Callable[[Path], Template] = FAMILIES[0].template,
        scale: float = 1,
        few: bool = False,  # texts are to come: what makes many fast takes a second to load, and memory
    ) -> None:
        """Load the tokenizer from a model's folder; UnsupportedModelError if it does not fit the family's template."""
        self._tokenizer_digest = blake2b((folder / "tokenizer.json").read_bytes(), digest_size=16).hexdigest()
        self._template = template(folder)
        if not few:
            self._template.plain.use_fast()
        self._max_pair_tokens = max_pair_tokens
        self._default_instruction = default_instruction
        self.scale = scale  # the relevance score of such a prompt is the sigmoid of logit / scale

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: ModelConfig, few: bool = False) -> Self:
        family = checkpoint.family
        instruction = model.instruction_text()
        return cls(checkpoint.folder, checkpoint.max_pair_tokens, instruction, family.template, family.scale, few)

    @property
    def fast(self) -> bool:
        return self._template.plain.fast

    @property
    def takes_instruction(self) -> bool:
        return self._template.takes_instruction

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything but the request that changes prompts and scores: tokenizer, template, limit, scale.

        The template is probed with a few texts, so that no change of its code is forgotten.
        """
        of = self._template
        # With white space at the ends: some families strip it.
        probe = (*of.around(" query\n", "instruction"), *of.documents(("document", "", " document\n")))
        parts = (self._tokenizer_digest, self._max_pair_tokens, self.scale, *(ids.tolist() for ids in probe))
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def require_room(self, query: str, instruction: str) -> None:
        """Raise QueryTooLongError if query and instruction are too long whatever their tokens: that costs no time."""
        tokens = (len(query) + len(instruction)) // _CHARACTERS_PER_TOKEN[-1]
        if tokens > self._max_pair_tokens:
            raise QueryTooLongError(tokens, self._max_pair_tokens, False)

    def readable(self, documents: Sequence[str], cutting: CuttingPolicy) -> Sequence[str]:
        """Give documents without what lies beyond all that is ever read of them: no prompt changes by it."""
        tokens, side = cutting.reach(self._max_pair_tokens)
        most = _CHARACTERS_PER_TOKEN[-1] * (tokens + _UNSURE_TOKENS)
        if all(len(document) <= most for document in documents):
            return documents
        return [_clip(document, most, side) for document in documents]

    def part_read(self, query: str, document: str, instruction: str, cutting: CuttingPolicy) -> tuple[int, int]:
        """Give `[start, end)` of what a document's prompts have of it, in characters; for those that lose some of it.

        The document is as `readable` gives it. Slow, as tokens are made anew.
        """
        room = self._room(*self._around(query, instruction or self._default_instruction))
        tokens, side = cutting.reach(room)
        for per_token in _CHARACTERS_PER_TOKEN:
            text = _clip(document, per_token * (tokens + _UNSURE_TOKENS), side)
            places = self._template.places(text)
            if len(places) >= tokens + _UNSURE_TOKENS or len(text) == len(document):
                break
        spans = cutting.cut(len(places), room).spans
        before = len(document) - len(text) if side == "start" else 0
        start, end = places[spans[0][0]][0], places[spans[-1][1] - 1][1]
        return before + max(0, start), before + min(end, len(text))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts by themselves."""
        return np.diff(self._template.plain.encode_batch(texts).offsets).tolist()  # type: ignore[no-any-return]

    def most_tokens(self, cutting: CuttingPolicy) -> int:
        """Tokens that all prompts of a document can have together."""
        windows = 1 if cutting.mode == "truncate" else cutting.max_windows
        return windows * self._max_pair_tokens

    def render(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        cutting: CuttingPolicy = CUT_THE_END,
    ) -> RenderedList:
        """Make the prompts of one list; QueryTooLongError if head and tail leave no token for a document."""
        head, tail = self._around(query, instruction or self._default_instruction)
        opening, closing = self._template.opening, self._template.closing
        room = self._room(head, tail)

        encoded, long = self._documents(documents, *cutting.reach(room))
        if not long and np.diff(encoded.offsets).max(initial=0) <= cutting.uncut(room):  # as they lie there
            owners = np.arange(len(documents), dtype=np.int32)
            return RenderedList(Shard(head, tail, encoded.ids, encoded.offsets), owners, frozenset())

        pieces: list[TokenArray] = []
        document_of_pair: list[int] = []
        truncated: list[int] = []
        for index in range(len(encoded)):
            ids, clipped = long.get(index) or (encoded[index], False)
            cut = cutting.cut(len(ids), room)
            for start, end in cut.spans:
                parts = [opening] * (start > 0) + [ids[start:end]] + [closing] * (end < len(ids))
                pieces.append(np.concatenate(parts) if len(parts) > 1 else parts[0])
            document_of_pair += [index] * len(cut.spans)
            if cut.truncated or clipped:
                truncated.append(index)
        owners = np.asarray(document_of_pair, dtype=np.int32)
        return RenderedList(Shard.of(head, tail, pieces), owners, frozenset(truncated))

    def _room(self, head: TokenArray, tail: TokenArray) -> int:
        return self._max_pair_tokens - sum(map(len, (head, tail, self._template.opening, self._template.closing)))

    def _around(self, query: str, instruction: str) -> tuple[TokenArray, TokenArray]:
        """Make head and tail."""
        self.require_room(query, instruction)
        limit = self._max_pair_tokens
        for per_token in _CHARACTERS_PER_TOKEN:
            most = per_token * limit
            whole = len(query) <= most and len(instruction) <= most
            head, tail = self._template.around(query[:most], instruction[:most])
            parts = (head, tail, self._template.opening, self._template.closing)
            if (tokens := sum(map(len, parts))) >= limit:
                raise QueryTooLongError(tokens, limit, whole)
            if whole:
                break
        return head, tail

    def _documents(
        self, documents: Sequence[str], tokens: int, side: TruncationSide
    ) -> tuple[EncodedTexts, dict[int, tuple[TokenArray, bool]]]:
        """Encode what `tokens` tokens from one end of each document need.

        Of documents that were not taken whole at first, by index: their ids, and whether any text was left out.
        """
        first, last = (per_token * (tokens + _UNSURE_TOKENS) for per_token in _CHARACTERS_PER_TOKEN)
        clipped = [_clip(document, first, side) for document in documents]
        encoded = self._template.documents(clipped)
        long: dict[int, tuple[TokenArray, bool]] = {}
        for index, (document, text) in enumerate(zip(documents, clipped, strict=True)):
            if len(text) < len(document):
                ids, more = encoded[index], text
                if len(ids) < tokens + _UNSURE_TOKENS:
                    more = _clip(document, last, side)
                    ids = self._template.documents([more])[0]
                long[index] = ids, len(more) < len(document)
        return encoded, long


def _clip(text: str, characters: int, side: TruncationSide) -> str:
    if len(text) <= characters:
        return text
    return text[:characters] if side == "end" else text[-characters:]
