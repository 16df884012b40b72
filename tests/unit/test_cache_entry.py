"""What is cached is what the engine said, bit by bit; and what only looks like it is recognised."""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.cache.entry import Entry, is_entry, pack, unpack
from reranker.types import EngineScores, RenderedList, Shard

LOGITS = st.floats(width=32, allow_nan=False, allow_infinity=False)
Document: TypeAlias = tuple[list[tuple[float, int]], bool]
"""Windows as (logit, tokens), and whether it was truncated."""
DOCUMENT = st.tuples(st.lists(st.tuples(LOGITS, st.integers(0, 40)), min_size=1, max_size=5), st.booleans())


def _rendered(documents: list[Document]) -> tuple[RenderedList, EngineScores]:
    """Make them behind a head of 3 tokens and before a tail of 2."""
    windows = [window for one, _ in documents for window in one]
    offsets = np.cumsum([0, *(tokens for _, tokens in windows)]).astype(np.int32)
    prompts = Shard(np.zeros(3, np.int32), np.zeros(2, np.int32), np.zeros(offsets[-1], np.int32), offsets)
    owners = [number for number, (one, _) in enumerate(documents) for _ in one]
    truncated = frozenset(number for number, (_, cut) in enumerate(documents) if cut)
    logits = np.array([logit for logit, _ in windows], dtype=np.float32)
    scores = EngineScores(logits, np.ones(len(logits), dtype=np.bool_))
    return RenderedList(prompts, np.asarray(owners, dtype=np.int32), truncated), scores


@given(documents=st.lists(DOCUMENT, min_size=1, max_size=8), data=st.data())
def test_entries_give_back_what_was_put_in(documents: list[Document], data: st.DataObject) -> None:
    rendered, scores = _rendered(documents)
    missing = data.draw(st.integers(-1, len(scores.logits) - 1))
    if missing >= 0:
        scores.scored[missing] = False
    entries = pack(rendered, scores)
    back = unpack(entries)
    unscored = {int(rendered.document_of_pair[missing])} if missing >= 0 else set()
    logits = [back.logits[back.document_of_window == number].tobytes() for number in range(len(documents))]
    for number, (windows, truncated) in enumerate(documents):
        if number in unscored:
            assert entries[number] is None
            assert not back.scored[number]
            continue
        assert logits[number] == np.array([logit for logit, _ in windows], dtype=np.float32).tobytes()
        assert back.windows[number] == len(windows)
        assert back.prompt_tokens[number] == sum(tokens + 5 for _, tokens in windows)
        assert back.truncated[number] == truncated
        assert is_entry(entries[number] or b"")


def test_document_in_one_window_takes_eight_bytes() -> None:
    rendered, scores = _rendered([([(1.5, 10)], True)])
    [entry] = pack(rendered, scores)
    assert entry == Entry(struct.pack("<If", 15 | 1 << 31, 1.5))


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", b"123456789", struct.pack("<If", 1, float("nan")), struct.pack("<Iff", 1, 1, float("inf"))],
)
def test_bytes_of_another_form_are_no_entry(content: bytes) -> None:
    assert not is_entry(content)
