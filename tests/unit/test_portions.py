"""A list in portions is the same list: no document lost, none twice."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from reranker.ranking.planning import portions

LENGTHS = st.lists(st.integers(0, 120_000), min_size=1, max_size=12)


@given(lengths=LENGTHS)
def test_portions_are_the_list_in_order(lengths: list[int]) -> None:
    documents = ["x" * length for length in lengths]
    cut = list(portions(documents))
    assert [document for portion in cut for document in portion] == documents
    assert all(cut)


def test_portions_grow_so_that_each_is_tokenized_while_the_one_before_is_scored() -> None:
    assert [len(portion) for portion in portions(["x" * 1_000] * 1_000)] == [150, 300, 550]


def test_short_list_is_one_portion() -> None:
    """It is tokenized in milliseconds; more portions would only be more hops."""
    assert [len(portion) for portion in portions(["x" * 10] * 500)] == [500]


def test_one_huge_document_among_small_ones_is_in_one_portion() -> None:
    assert [len(portion) for portion in portions(["x" * 900_000] + ["x"] * 9)] == [1, 9]


@example(lengths=[75_000, 75_001], letter="é")
@given(lengths=LENGTHS, letter=st.sampled_from(["x", "é", "文"]))
def test_no_portion_has_more_tokens_than_memory_is_meant_for(lengths: list[int], letter: str) -> None:
    """Or it is one document."""
    for portion in portions([letter * length for length in lengths]):
        assert len(portion) == 1 or sum(map(len, portion)) * (1 if letter == "x" else 4) <= 600_000
