"""A lost pair is a missing result; an oversize shard is memory no replica has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import PlanningConfig
from reranker.planning import plan

SMALL = PlanningConfig(max_shard_tokens=1_000, min_shard_tokens=100)
LENGTHS = st.lists(st.integers(1, 1_000), max_size=120)


@given(lengths=LENGTHS, replicas=st.integers(1, 16))
def test_every_pair_is_in_exactly_one_shard(lengths: list[int], replicas: int) -> None:
    shards = plan(lengths, replicas, SMALL)
    assert sorted(index for shard in shards for index in shard) == list(range(len(lengths)))
    assert all(shards)


@given(lengths=LENGTHS, replicas=st.integers(1, 16))
def test_no_shard_exceeds_its_limit(lengths: list[int], replicas: int) -> None:
    for shard in plan(lengths, replicas, SMALL):
        assert sum(lengths[index] for index in shard) <= SMALL.max_shard_tokens


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=120), replicas=st.integers(1, 16))
def test_shards_are_balanced_by_tokens(lengths: list[int], replicas: int) -> None:
    """The list is as slow as its heaviest shard: at most the fair share and one pair more."""
    shards = plan(lengths, replicas, SMALL)
    heaviest = max(sum(lengths[index] for index in shard) for shard in shards)
    assert heaviest <= sum(lengths) / len(shards) + max(lengths)


def test_small_list_stays_whole() -> None:
    """A hop costs milliseconds; 20 short documents are not worth four."""
    assert plan([4] * 20, 4, SMALL) == [tuple(range(20))]


def test_large_list_uses_every_replica() -> None:
    assert [len(shard) for shard in plan([50] * 40, 4, SMALL)] == [10, 10, 10, 10]


def test_list_beyond_one_shard_is_split_even_for_one_replica() -> None:
    assert len(plan([500] * 5, 1, SMALL)) >= 3


def test_empty_list_has_no_shards() -> None:
    assert plan([], 4, SMALL) == []


def test_pair_above_the_limit_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="max_shard_tokens"):
        plan([1_001], 1, SMALL)
