"""Which replicas a list is offered: all of a few; of many the next in turn that have not far more to do than others."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import PlanningConfig
from reranker.ranking.placement import Placement, Route
from reranker.ranking.planning import most_shards, plan
from reranker.types import ReplicaLoad

MANY = st.lists(st.integers(0, 10**6), min_size=33, max_size=120)


def _placement(loads: list[int], seed: int = 0) -> Placement:
    placement = Placement(lambda: 1_000.0, seed=seed)
    placement.set_live(_name(number) for number in range(len(loads)))
    for number, load in enumerate(loads):
        placement.note_load(_name(number), ReplicaLoad(load, 1_000.0, {"another": load}))
    return placement


def _name(number: int) -> str:
    return f"replica-{number:03}"


@given(loads=st.lists(st.integers(0, 10**6), min_size=1, max_size=32), shards=st.integers(1, 200))
def test_few_replicas_are_all_shown_with_what_each_has_to_do(loads: list[int], shards: int) -> None:
    shortlist = _placement(loads).shortlist(shards)
    offered = dict(zip(shortlist.replicas, shortlist.loads, strict=True))
    assert offered == {_name(number): load for number, load in enumerate(loads)}


@given(loads=MANY, shards=st.integers(1, 150), seed=st.integers(0, 5))
def test_of_many_as_many_are_shown_as_the_list_may_have_shards(loads: list[int], shards: int, seed: int) -> None:
    shortlist = _placement(loads, seed).shortlist(shards)
    assert len(set(shortlist.replicas)) == len(shortlist.replicas) == len(shortlist.loads)
    assert len(shortlist.replicas) == (len(loads) if shards >= len(loads) else shards)


@given(loads=MANY, shards=st.integers(1, 32), seed=st.integers(0, 5))
def test_replica_that_is_far_busier_than_others_is_passed_by_while_there_are_others(
    loads: list[int], shards: int, seed: int
) -> None:
    mean = sum(loads) / len(loads)
    shown = {loads[int(name[-3:])] for name in _placement(loads, seed).shortlist(shards).replicas}
    if sum(load <= 2 * mean for load in loads) >= shards:
        assert max(shown) <= 2 * mean
    else:
        assert max(shown) == sorted(loads)[shards - 1]


@given(
    replicas=st.integers(33, 100), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=30), seed=st.integers(0, 5)
)
def test_replicas_take_turns(replicas: int, sizes: list[int], seed: int) -> None:
    """Whatever the sizes of the lists, none is shown twice before each was shown once."""
    placement = _placement([0] * replicas, seed)
    shown: Counter[str] = Counter()
    for size in sizes:
        shown.update(placement.shortlist(size).replicas)
    counts = [shown[_name(number)] for number in range(replicas)]
    assert max(counts) - min(counts) <= 1


@given(loads=MANY, tokens=st.lists(st.integers(50, 8_000), min_size=1, max_size=100))
def test_shards_go_to_different_ones_of_the_replicas_shown(loads: list[int], tokens: list[int]) -> None:
    placement, config = _placement(loads), PlanningConfig()
    shortlist = placement.shortlist(most_shards(tokens, config))
    shards = plan(tokens, shortlist.loads, config)
    used: Counter[str] = Counter()
    with ExitStack() as stack:
        for indices in shards:
            stack.enter_context(placement.send(Route(used, shortlist.replicas), len(indices)))
        assert set(used) <= set(shortlist.replicas)
        assert max(used.values()) <= -(-len(shards) // len(shortlist.replicas))
        placement.check_integrity()


@given(
    tokens=st.lists(st.integers(1, 60_000), min_size=1, max_size=80), loads=st.lists(st.integers(0, 10**6), min_size=1)
)
def test_no_list_is_cut_into_more_shards_than_was_said_unless_its_pairs_do_not_fill_them(
    tokens: list[int], loads: list[int]
) -> None:
    config = PlanningConfig()
    shards = plan(tokens, loads, config)
    said = most_shards(tokens, config)
    # One pair may take almost all of a shard, and the next not fit any more: at worst each shard is half full.
    assert len(shards) <= max(said, 2 * -(-sum(tokens) // config.max_shard_tokens))


def test_shard_that_is_sent_again_goes_to_another_one_that_was_shown_and_in_the_end_to_any() -> None:
    placement = _placement([0] * 40)
    names = [_name(number) for number in range(40)]
    route = Route(Counter(), [_name(3), _name(4)])
    went = []
    for _ in range(3):
        with placement.send(route, 10) as name:
            went.append(name)
    assert set(went[:2]) == {_name(3), _name(4)}
    assert went[2] in set(names) - {_name(3), _name(4)}


def test_replicas_shown_may_be_gone_when_they_are_chosen() -> None:
    placement = _placement([0] * 40)
    placement.set_live([_name(7)])
    with placement.send(Route(Counter(), [_name(3)]), 10) as name:
        assert name == _name(7)


def test_ingress_replicas_do_not_all_begin_with_the_same() -> None:
    assert len({tuple(_placement([0] * 100, seed).shortlist(3).replicas) for seed in range(20)}) > 10


@pytest.mark.parametrize("replicas", [0, 1, 40])
def test_number_of_live_replicas(replicas: int) -> None:
    assert _placement([0] * replicas).live_replicas == replicas
