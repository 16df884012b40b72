"""Make the prompts of a list: (instruction, query, document) -> token ids, in the layout of a shard.

A prompt is head + document + tail, as the family's template makes them. The head is encoded once per list, the
documents in one batch call, and the tail is constant. Only documents are ever cut.
"""

from __future__ import annotations

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
from reranker.model.families import Qwen3Template, Template
from reranker.types import LongDocuments, RankRequest, RenderedList, Shard, TokenArray, TruncationSide


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
        template: Callable[[Path], Template] = Qwen3Template,
    ) -> None:
        """Load the tokenizer from a model's folder; UnsupportedModelError if it does not fit the family's template."""
        self._tokenizer_digest = blake2b((folder / "tokenizer.json").read_bytes(), digest_size=16).hexdigest()
        self._template = template(folder)
        self._max_pair_tokens = max_pair_tokens
        self._default_instruction = default_instruction

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: ModelConfig) -> Self:
        return cls(checkpoint.folder, checkpoint.max_pair_tokens, model.instruction_text(), checkpoint.family.template)

    @property
    def takes_instruction(self) -> bool:
        return self._template.takes_instruction

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything but the request that changes the prompts: tokenizer, template and limit.

        The template is probed with a few texts, so that no change of its code is forgotten.
        """
        of = self._template
        probe = (of.head("query", "instruction"), *of.documents(("document", "")), of.tail)
        parts = (self._tokenizer_digest, self._max_pair_tokens, *(ids.tolist() for ids in probe))
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def render(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        cutting: CuttingPolicy = CUT_THE_END,
    ) -> RenderedList:
        """Make the prompts of one list; QueryTooLongError if head and tail leave no token for a document."""
        head, tail = self._template.head(query, instruction or self._default_instruction), self._template.tail
        room = self._max_pair_tokens - len(head) - len(tail)
        if room < 1:
            raise QueryTooLongError(len(head) + len(tail), self._max_pair_tokens)

        pieces: list[TokenArray] = []
        document_of_pair: list[int] = []
        truncated: list[int] = []
        for index, ids in enumerate(self._template.documents(documents)):
            cut = cutting.cut(len(ids), room)
            pieces += [ids[start:end] for start, end in cut.spans]
            document_of_pair += [index] * len(cut.spans)
            if cut.truncated:
                truncated.append(index)
        owners = np.asarray(document_of_pair, dtype=np.int32)
        return RenderedList(Shard.of(head, tail, pieces), owners, frozenset(truncated))
