"""A document's chunks hold all of it, none more tokens than allowed, and neighbours overlap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from reranker.errors import ConfigurationError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.search.documents import Chunk, Chunker, ChunkSize, Document

TOKENIZER = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))


def _chunks(text: str, tokens: int, overlap: int) -> list[Chunk]:
    return Chunker(DEMO_MODEL, ChunkSize(tokens, overlap)).chunks([Document("d", text, "T", {"k": 1})])


@given(
    st.lists(
        st.sampled_from(["capital ", "China. ", "\n\n", "首都是北京。", "a", "9,5 ", "é"]), min_size=1, max_size=120
    ),
    st.integers(4, 40),
    st.integers(0, 2),
)
def test_chunks_hold_the_whole_text_within_their_size(pieces: list[str], tokens: int, share: int) -> None:
    text = "".join(pieces)
    chunks = _chunks(text, tokens, tokens * share // 4)
    covered = set()
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert text[chunk.start : chunk.start + len(chunk.text)] == chunk.text
        covered |= set(range(chunk.start, chunk.start + len(chunk.text)))
        # A word that is cut in two may take a token more than its part of the whole did.
        assert len(TOKENIZER.encode(chunk.text, add_special_tokens=False)) <= tokens + 2
    assert all(text[place].isspace() for place in range(len(text)) if place not in covered)


def test_character_of_several_tokens_at_the_end_ends_the_last_chunk() -> None:
    """The cut falls within the character: no token begins after it."""
    text = "the capital \U0001f642"
    tokens = len(TOKENIZER.encode(text, add_special_tokens=False)) - 1
    assert [chunk.text for chunk in _chunks(text, tokens, 0)] == [text]


def test_short_document_is_one_chunk_with_its_title_and_metadata() -> None:
    assert _chunks("  The capital.\n", 50, 5) == [Chunk("d", 0, "The capital.", 2, "T", {"k": 1})]


def test_neighbours_overlap_and_end_with_a_sentence() -> None:
    text = " ".join(f"This is sentence {number} of many." for number in range(60))
    chunks = _chunks(text, 50, 12)
    assert all(chunk.text.endswith("many.") for chunk in chunks)
    for one, following in itertools.pairwise(chunks):
        assert 0 < one.start + len(one.text) - following.start < len(one.text) / 2


@pytest.mark.parametrize(("tokens", "overlap"), [(0, 0), (10, 6), (10, -1)])
def test_sizes_that_make_no_progress_are_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(ConfigurationError, match="at most half"):
        ChunkSize(tokens, overlap)
