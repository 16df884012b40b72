"""The model is changed under load: every answer is wholly by one model, and named after it; none is lost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Cluster, configuration
from tests.integration.traffic import ListOfAnyModel, Traffic, wait_until

pytestmark = pytest.mark.slow

SEEDS = {"simulated": 0, "simulated-1": 1}


def _config(seed: int, replicas: int) -> dict[str, Any]:
    """Model number `seed`. Their prompts differ, in the tokens that these may have: no engine takes the other's."""
    args = {"model": {"max_pair_tokens": 8_192 - seed}}
    return configuration(replicas, args, {"tokens_per_s": 10_000, "score_seed": seed})


def test_deploys_that_change_the_model_mix_misname_and_lose_no_list(cluster: Cluster) -> None:
    """Back and forth: with some engines, then with a single one, whose lists wait and are handed to the new ingress."""
    lists = [ListOfAnyModel.of(number, 150, SEEDS) for number in range(6)]
    service = cluster.serve("models", lambda _: _config(0, 3))

    def all_replicas() -> set[psutil.Process]:
        return service.replica_processes() | service.replica_processes("Ingress")

    with Traffic(service, lists, clients=3) as traffic:
        for seed, replicas in ((1, 3), (1, 1), (0, 1)):
            traffic.wait_for(3)
            old, is_new = all_replicas(), seed != 1 or replicas == 3
            service.deploy(_config(seed, replicas))
            wait_until(functools.partial(_replaced, all_replicas, old if is_new else set(), replicas + 1))
            traffic.wait_for(6)
            assert traffic.answers[-1]["model"] == list(SEEDS)[seed], traffic.problems
    assert traffic.problems == []
    assert {answer["model"] for answer in traffic.answers} == set(SEEDS)
    assert any(answer["meta"]["shards"] == 0 for answer in traffic.answers)  # handed over
    service.wait_until_idle()


def _replaced(all_replicas: Callable[[], set[psutil.Process]], old: set[psutil.Process], wanted: int) -> bool:
    now = all_replicas()
    return not old & now and len(now) == wanted
