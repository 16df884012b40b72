"""Where a long document is cut: which of its tokens make up each window. Pure arithmetic; knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from reranker.types import LongDocuments, TruncationSide


@dataclass(frozen=True, slots=True)
class Cut:
    """The parts of a document that are scored."""

    spans: tuple[tuple[int, int], ...]
    """For each window its first token and the one after its last."""
    truncated: bool
    """Some token is in no window."""


@dataclass(frozen=True, slots=True)
class CuttingPolicy:
    """What happens to documents that are too long."""

    mode: LongDocuments = "truncate"
    side: TruncationSide = "end"
    max_document_tokens: int | None = None
    """Every document is cut to so many tokens before anything else. None: it is not."""
    window_tokens: int | None = None
    """None: as many as the prompt has room for."""
    overlap_tokens: int = 0
    max_windows: int = 1

    def cut(self, tokens: int, room: int) -> Cut:
        """Decide what of a document is scored.

        Args:
            tokens: Tokens of the document.
            room: Document tokens that fit a prompt; at least 1.
        """
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
    """Cover a document with windows, neighbours sharing at least `overlap` tokens.

    The last window ends with the document and is as long as the others: a short rest would be scored without context.

    Args:
        tokens: Tokens of the document.
        window: Tokens of a window; at least 1.
        overlap: Tokens neighbours share; at most half a window is used, so that the count stays bounded.
        max_windows: More are not made; what lies beyond is cut off.
    """
    if tokens <= window:
        return Cut(((0, tokens),), truncated=False)
    step = window - min(overlap, window // 2)
    starts = [*range(0, tokens - window, step), tokens - window]
    kept = starts[:max_windows]
    return Cut(tuple((start, start + window) for start in kept), truncated=len(kept) < len(starts))
