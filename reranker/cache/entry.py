"""A scored document in a few bytes: what is cached, and what a ranking is made of.

Bytes and not objects: memory holds a million of them, and one `frombuffer` reads a whole list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from reranker.types import BoolArray, EngineScores, FloatArray, RenderedList, TokenArray

Entry = NewType("Entry", bytes)
"""Little-endian: a uint32 with the prompt tokens of all windows, and in its top bit whether the document was truncated;
then a float32 per window, its logit."""

_TRUNCATED = np.uint32(1 << 31)
_WORD = 4
_NO_SCORE = bytes(2 * _WORD)


@dataclass(frozen=True, slots=True)
class ScoredDocuments:
    """The scores of a list's documents: the first two by window, rising, the others by document."""

    logits: FloatArray  # a document without a score has one window with a meaningless logit
    document_of_window: TokenArray
    windows: NDArray[np.intp]  # prompts
    prompt_tokens: NDArray[np.int64]  # of all windows together; 0 without a score
    truncated: BoolArray
    scored: BoolArray


def pack(rendered: RenderedList, scores: EngineScores) -> list[Entry | None]:
    """Make the entries of rendered documents. None: not all of a document's windows are scored."""
    prompts = rendered.prompts
    starts = np.flatnonzero(np.diff(rendered.document_of_pair, prepend=-1))
    tokens = np.add.reduceat(np.diff(prompts.offsets) + (len(prompts.head) + len(prompts.tail)), starts)
    heads = tokens.astype("<u4")
    heads[sorted(rendered.truncated)] |= _TRUNCATED
    scored = np.logical_and.reduceat(scores.scored, starts).tolist()
    ends = [*(starts[1:] * _WORD).tolist(), len(prompts) * _WORD]
    head_bytes, logit_bytes = heads.tobytes(), scores.logits.astype("<f4").tobytes()
    return [
        Entry(head_bytes[_WORD * i : _WORD * (i + 1)] + logit_bytes[start:end]) if known else None
        for i, (start, end, known) in enumerate(zip((starts * _WORD).tolist(), ends, scored, strict=True))
    ]


def unpack(entries: Sequence[Entry | None]) -> ScoredDocuments:
    """Read the entries of a list, at least one."""
    present = [_NO_SCORE if entry is None else entry for entry in entries]
    words = np.fromiter(map(len, present), dtype=np.intp, count=len(present)) // _WORD
    starts = np.cumsum(words) - words
    content = np.frombuffer(b"".join(present), dtype="<u4")
    is_logit = np.ones(len(content), dtype=np.bool_)
    is_logit[starts] = False
    heads, windows = content[starts], words - 1
    return ScoredDocuments(
        logits=content[is_logit].view("<f4").astype(np.float32, copy=False),
        document_of_window=np.repeat(np.arange(len(present), dtype=np.int32), windows),
        windows=windows,
        prompt_tokens=(heads & ~_TRUNCATED).astype(np.int64),
        truncated=(heads & _TRUNCATED) != 0,
        scored=np.fromiter((entry is not None for entry in entries), dtype=np.bool_, count=len(entries)),
    )


def is_entry(content: bytes) -> bool:
    """Whether bytes from outside have an entry's form, with finite logits."""
    if len(content) < 2 * _WORD or len(content) % _WORD:
        return False
    return bool(np.isfinite(np.frombuffer(content, dtype="<f4", offset=_WORD)).all())
