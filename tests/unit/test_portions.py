"""A list in portions is the same list: no document lost, none twice, no pair scored again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reranker.portions import DistinctPairs, portions
from reranker.types import Shard

LENGTHS = st.lists(st.integers(0, 120_000), min_size=1, max_size=12)
DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=20)


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


def _shard(documents: list[list[int]]) -> Shard:
    offsets = np.cumsum([0, *(len(document) for document in documents)]).astype(np.int32)
    tokens = np.array([token for document in documents for token in document], dtype=np.int32)
    return Shard(np.array([7], dtype=np.int32), np.array([8], dtype=np.int32), tokens, offsets)


@given(list_in_portions=st.lists(DOCUMENTS, max_size=3))
def test_identical_pairs_are_scored_once_and_every_one_has_its_place(list_in_portions: list[list[list[int]]]) -> None:
    """The pair at each place is, token by token, the one it is scored as; and no two of these are the same."""
    distinct, kept, places = DistinctPairs(), [], []
    for documents in list_in_portions:
        new, where = distinct.add(_shard(documents))
        kept += [new.tokens[new.offsets[i] : new.offsets[i + 1]].tolist() for i in range(len(new))]
        places += where.tolist()
        assert (new.head.tolist(), new.tail.tolist()) == ([7], [8])
        assert len(distinct) == len(kept)
    everything = [document for documents in list_in_portions for document in documents]
    assert [kept[place] for place in places] == everything
    assert kept == [list(document) for document in dict.fromkeys(tuple(document) for document in everything)]


def test_portion_without_repetitions_is_not_copied() -> None:
    prompts = _shard([[1], [2]])
    assert DistinctPairs().add(prompts)[0] is prompts
