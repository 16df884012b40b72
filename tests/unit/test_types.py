"""Shards are cut from flat arrays by index arithmetic: every token must end up with its own pair."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reranker.types import Shard, TokenArray


def _array(values: list[int]) -> TokenArray:
    return np.array(values, dtype=np.int32)


def _shard(documents: list[list[int]]) -> Shard:
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
    tokens = [token for document in documents for token in document]
    return Shard(_array([1, 2]), _array([3]), _array(tokens), offsets.astype(np.int32))


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=20),
    data=st.data(),
)
def test_shard_has_the_tokens_of_its_pairs_in_order(documents: list[list[int]], data: st.DataObject) -> None:
    whole = _shard(documents)
    indices = data.draw(st.lists(st.sampled_from(range(len(documents))), min_size=1, unique=True))
    shard = whole.select(indices)
    cut = [shard.tokens[shard.offsets[i] : shard.offsets[i + 1]].tolist() for i in range(len(shard))]
    assert cut == [documents[i] for i in indices]
    assert shard.pair_tokens == [whole.pair_tokens[i] for i in indices]
    assert shard.work_tokens == len(shard.head) + sum(shard.pair_tokens)


def test_whole_list_is_not_copied() -> None:
    whole = _shard([[1], [2]])
    assert whole.select([0, 1]) is whole
    assert whole.select([1, 0]) is not whole


def test_token_counts() -> None:
    """A pair brings its document and the tail; the head is billed with every pair, but computed once a shard."""
    shard = _shard([[5, 5], [], [5]])
    assert shard.pair_tokens == [3, 1, 2]
    assert shard.prompt_tokens == 3 * (2 + 1) + 3
    assert shard.work_tokens == 2 + 3 * 1 + 3


def test_shard_survives_pickle() -> None:
    shard = _shard([[1, 2], [3]])
    again = pickle.loads(pickle.dumps(shard, protocol=5))  # noqa: S301 - our own bytes
    assert again.tokens.tolist() == shard.tokens.tolist()
    assert again.tokens.dtype == np.int32
