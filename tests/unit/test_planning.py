"""A lost pair is a missing result; an oversize shard is memory no replica has."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reranker.config import PlanningConfig
from reranker.ranking.planning import plan

SMALL = PlanningConfig(max_shard_tokens=1_000, min_shard_tokens=100)
LENGTHS = st.lists(st.integers(1, 1_000), max_size=120)
UNLIMITED = PlanningConfig(min_shard_tokens=1)
LOADS = st.lists(st.integers(0, 100_000), min_size=1, max_size=16)


def _tokens(lengths: list[int], shards: list[tuple[int, ...]]) -> list[int]:
    return [sum(lengths[index] for index in shard) for shard in shards]


@given(lengths=LENGTHS, loads=LOADS)
def test_every_pair_is_in_exactly_one_shard(lengths: list[int], loads: list[int]) -> None:
    shards = plan(lengths, loads, SMALL)
    assert sorted(index for shard in shards for index in shard) == list(range(len(lengths)))
    assert all(shards)
    assert all(shard == tuple(sorted(shard)) for shard in shards)


@given(lengths=LENGTHS, loads=LOADS)
def test_no_shard_exceeds_its_limit(lengths: list[int], loads: list[int]) -> None:
    assert all(tokens <= SMALL.max_shard_tokens for tokens in _tokens(lengths, plan(lengths, loads, SMALL)))


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=120), loads=LOADS)
def test_list_ends_everywhere_at_about_the_same_time(lengths: list[int], loads: list[int]) -> None:
    """It is as slow as its last shard: at most a pair later than if what there is to do were shared out evenly."""
    shards = plan(lengths, loads, UNLIMITED)
    used = sorted(loads)[: len(shards)]
    ends = [load + tokens for load, tokens in zip(used, _tokens(lengths, shards), strict=True)]
    assert max(ends) <= (sum(used) + sum(lengths)) / len(shards) + max(lengths)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=120), loads=LOADS)
def test_shards_beyond_the_replicas_are_balanced_by_tokens(lengths: list[int], loads: list[int]) -> None:
    shards = plan(lengths, loads, SMALL)
    if len(shards) > len(loads):
        assert max(_tokens(lengths, shards)) <= sum(lengths) / len(shards) + max(lengths)


@given(lengths=LENGTHS, loads=LOADS)
def test_heaviest_shard_comes_first(lengths: list[int], loads: list[int]) -> None:
    """It decides when the list ends, so it gets the best replica."""
    tokens = _tokens(lengths, plan(lengths, loads, SMALL))
    assert tokens == sorted(tokens, reverse=True)


@given(lengths=LENGTHS, loads=LOADS, more=st.integers(0, 1_000_000))
@example(lengths=[658, 479, 514, 582, 694, 503, 633], loads=[0] * 6, more=100_000)  # was 7 shards where idle 6 fit
def test_more_load_on_every_replica_never_means_more_shards(lengths: list[int], loads: list[int], more: int) -> None:
    """Where everything waits anyway a finer cut only costs hops, so a busy service cuts coarser."""
    loaded = [load + more for load in loads]
    assert len(plan(lengths, loaded, SMALL)) <= len(plan(lengths, loads, SMALL))


@given(lengths=st.lists(st.integers(1, 1_000), min_size=1, max_size=40), loads=LOADS)
@example(lengths=[676, 983, 128], loads=[1336, 157, 1350])  # was 3 shards: two of three replicas got none at first
def test_limit_of_a_shard_costs_no_more_shards_than_it_must(lengths: list[int], loads: list[int]) -> None:
    """With one shard fewer, filled in the same way, one would be too heavy; else it was the loads that asked for it."""
    shards = plan(lengths, loads, SMALL)
    unlimited = PlanningConfig(max_shard_tokens=10**9, min_shard_tokens=SMALL.min_shard_tokens)
    wanted = len(plan(lengths, loads, unlimited))
    if len(shards) > wanted:
        fewer = [0] * (len(shards) - 1)
        for length in sorted(lengths, reverse=True):
            fewer[fewer.index(min(fewer))] += length
        assert max(fewer) > SMALL.max_shard_tokens


def test_small_list_stays_whole() -> None:
    """A hop costs milliseconds; 20 short documents are not worth four."""
    assert plan([4] * 20, [0] * 4, SMALL) == [tuple(range(20))]


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=9), loads=LOADS)
def test_list_that_is_not_worth_two_hops_is_one_shard(lengths: list[int], loads: list[int]) -> None:
    assert len(plan(lengths, loads, SMALL)) == 1


def test_large_list_uses_every_idle_replica() -> None:
    assert [len(shard) for shard in plan([50] * 40, [0] * 4, SMALL)] == [10, 10, 10, 10]


def test_large_list_leaves_out_the_one_replica_that_is_busy() -> None:
    """Its part would be the last to end."""
    assert len(plan([50] * 40, [0, 0, 0, 1_000_000], SMALL)) == 3


def test_replica_that_has_something_to_do_gets_less() -> None:
    """Not nothing, and not as much as the idle ones."""
    [first, second, third] = _tokens([10] * 3_000, plan([10] * 3_000, [0, 6_000, 0], PlanningConfig()))
    assert (first, second, third) == (12_000, 12_000, 6_000)


def test_saturation_gives_fewer_and_larger_shards() -> None:
    """Eight replicas with a long queue each: eight shards would end no earlier than one, and cost eight hops."""
    idle, busy = plan([50] * 20, [0] * 8, SMALL), plan([50] * 20, [100_000] * 8, SMALL)
    assert (len(idle), len(busy)) == (8, 1)


def test_list_beyond_one_shard_is_split_even_for_one_replica() -> None:
    assert len(plan([500] * 5, [0], SMALL)) == 3


def test_pairs_that_do_not_fit_together_are_split_further() -> None:
    """Three fit two shards by their sum, but two of them do not fit one."""
    assert [len(shard) for shard in plan([600, 600, 600], [0], SMALL)] == [1, 1, 1]


def test_empty_list_has_no_shards() -> None:
    assert plan([], [0] * 4, SMALL) == []


def test_pair_above_the_limit_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="max_shard_tokens"):
        plan([1_001], [0], SMALL)
