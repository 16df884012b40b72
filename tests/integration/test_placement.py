"""A list is spread over the replicas that are free: always, not on average; and nobody can tell from its scores."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.integration.conftest import Service
from tests.integration.traffic import QUERY, RankedList, documents, scores_of, simulated_scores, work_tokens

REPLICAS = 4


def test_four_shards_are_on_four_idle_replicas_every_time(simulated: Service) -> None:
    """Ray's own router would put two of them on one replica in nine lists of ten."""
    lists = [RankedList.simulated(number, 300) for number in range(16)]
    placed = []
    for one in lists:
        response = simulated.post(one.query, one.documents)
        assert one.problem(response) is None
        meta = response.json()["meta"]
        placed.append((meta["shards"], meta["replicas"], meta["retries"]))
    assert placed == [(REPLICAS, REPLICAS, 0)] * len(lists)


def test_replicas_go_behind_no_other_program_of_the_machine(simulated: Service) -> None:
    """Ray gives its workers a lower priority, unless it is told."""
    nice = psutil.Process(simulated.process.pid).nice()
    assert {process.nice() for process in simulated.replica_processes("")} == {nice}


def test_small_list_stays_whole(simulated: Service) -> None:
    """A hop would cost more than the second replica saves."""
    texts = documents(10)
    answer = simulated.rerank(QUERY, texts)
    assert (answer["meta"]["shards"], answer["meta"]["replicas"]) == (1, 1)
    assert scores_of(answer) == simulated_scores(QUERY, texts)


def test_small_lists_at_the_same_time_are_on_different_replicas(simulated: Service) -> None:
    """Eight lists of one shard each: while they are all in flight, every replica has two."""
    texts = documents(95)
    queries = [f"{QUERY} {number}" for number in range(10, 18)]
    [shard_tokens] = {work_tokens(query, texts) for query in queries}
    seen: set[tuple[int, ...]] = set()
    with ThreadPoolExecutor(len(queries)) as pool:
        for _ in range(5):  # a slow machine may not look while all of them are
            sent = [pool.submit(simulated.rerank, query, texts, cache="off") for query in queries]
            while not all(one.done() for one in sent):
                in_hand = [sum(replica["in_hand"].values()) for replica in simulated.load()["replicas"]]
                if sum(in_hand) == len(sent) * shard_tokens:
                    seen.add(tuple(in_hand))
                time.sleep(0.02)
            assert all(one.result()["meta"]["shards"] == 1 for one in sent)
            if seen:
                break
    assert seen == {(2 * shard_tokens,) * REPLICAS}


def test_list_during_others_gets_the_scores_it_gets_alone(simulated: Service) -> None:
    lists = [RankedList.simulated(number, count) for number, count in enumerate([10, 300, 50, 500, 10, 300, 50, 1])]
    with ThreadPoolExecutor(len(lists)) as pool:
        answers = list(pool.map(lambda one: simulated.post(one.query, one.documents), lists))
    assert [one.problem(answer) for one, answer in zip(lists, answers, strict=True)] == [None] * len(lists)
    simulated.wait_until_idle()
