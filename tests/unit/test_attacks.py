"""What `make attack` makes of what it sees: verdicts, costs, answers on the wire, bodies by seed."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from tests.attacks import bodies, grammar
from tests.attacks.__main__ import chosen
from tests.attacks.attack import Attack, Outcome
from tests.attacks.campaign import every_attack
from tests.attacks.door import spellings
from tests.attacks.measure import Cost, ProcessCost, Samples
from tests.attacks.processes import told
from tests.attacks.verdict import Bounds, Quiet, faults
from tests.attacks.wire import Answer, statuses

QUIET = Quiet(health_s=[0.01] * 100, lists_s=[0.02] * 100, cpu={"Ingress 1": 0.1}, refusal_cpu_s=0.001)
OPEN, KEYED = (Attack("one", lambda _: Outcome(), with_key=with_key) for with_key in (False, True))


def cost(growth_mib: float = 0, cpu_s: float = 0.2, health_s: float = 0.01, **more: object) -> Cost:
    """Two seconds, most of it as without attack."""
    made = Cost(2.0, {"Ingress 1": ProcessCost(200, growth_mib, 0, cpu_s)}, health_s=[health_s], lists_s=[0.02])
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("attack", [OPEN, KEYED])
def test_what_costs_nothing_held(attack: Attack) -> None:
    assert faults(attack, Outcome(requests=10), cost(), QUIET, Bounds()) == []


@pytest.mark.parametrize(
    ("attack", "seen", "said"),
    [
        (KEYED, cost(health_s=0.3), "/health waited 0.30 s"),
        (KEYED, cost(health_failed=[0, 503]), "/health failed 2 times (no answer, 503)"),
        (KEYED, cost(lists_s=[0.02] * 50 + [0.2] * 5), "lists: p99 0.20 s (at most 0.09)"),
        (KEYED, cost(lists_failed=[429]), "failed (429)"),
        (KEYED, cost(growth_mib=1_100), "Ingress 1 grew by 1100 MiB (at most 1024)"),
        (KEYED, cost(gone=["Ingress 1"]), "ended: Ingress 1"),
        (OPEN, cost(growth_mib=65), "Ingress 1 grew by 65 MiB (at most 64)"),
        (OPEN, cost(cpu_s=0.5), "Ingress 1 computed 0.30 s (at most 0.11 for 10 requests)"),
        (OPEN, cost(log_bytes=20_000), "20 KB of log, 2.0 KB a request"),
    ],
)
def test_each_bound_is_a_fault_once_it_is_passed(attack: Attack, seen: Cost, said: str) -> None:
    [fault] = faults(attack, Outcome(requests=10), seen, QUIET, Bounds())
    assert said in fault


def test_who_has_a_key_may_compute_and_write() -> None:
    seen = cost(growth_mib=1_000, cpu_s=2, log_bytes=10**6)
    assert faults(KEYED, Outcome(requests=1), seen, QUIET, Bounds()) == []


def test_busy_machines_get_wider_bounds_of_time_and_none_of_memory() -> None:
    bounds = Bounds().loosened(10)
    assert faults(KEYED, Outcome(), cost(health_s=2.4), QUIET, bounds) == []
    assert faults(OPEN, Outcome(), cost(growth_mib=65), QUIET, bounds)


def test_outcome_counts_answers_and_blames_once() -> None:
    outcome = Outcome()
    for _ in range(3):
        outcome.take(Answer(error="reset"), {400}, "a bomb")
    outcome.take(Answer(503, retry_after_missing=True))
    outcome.take(Answer(429, headers={"retry-after": "2371"}))
    assert outcome.answers == {"reset": 3, "503": 1, "429": 1}
    assert outcome.faults == [
        "a bomb got reset", "503 without Retry-After", "429 says Retry-After: 2371, with a queue of seconds",
    ]  # fmt: skip


def test_process_costs_its_peak_and_its_processor_time() -> None:
    samples = Samples(
        "Ingress 1", [0.0, 1.0, 2.0, 3.0], [100 * 2**20, 100 * 2**20, 700 * 2**20, 150 * 2**20], [1, 1, 3, 4]
    )
    assert samples.cost(1.5, 2.5) == ProcessCost(before_mib=100, growth_mib=600, left_mib=50, cpu_s=3)
    assert samples.cost(3.5, 4.0) is None


def test_processes_elsewhere_are_what_their_metrics_say() -> None:
    text = """\
# HELP process_resident_memory_bytes Memory.
process_resident_memory_bytes{replica="a"} 2.5e+08
process_cpu_seconds_total{replica="a"} 12.5
reranker_requests_total{replica="a"} 7
"""
    assert told(text) == {'process{replica="a"}': (250_000_000, 12.5)}


def test_all_answers_of_a_connection_are_read() -> None:
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHTTP/1.1 999"
    assert statuses(first + b"HTTP/1.1 401 Unauthorized\r\n\r\n") == [200, 401]
    assert statuses(b"garbage") == []


def test_same_seed_sends_the_same() -> None:
    def sent(seed: int) -> list[object]:
        chance = random.Random(seed)
        return [*(grammar.body(chance) for _ in range(5)), *(grammar.request(chance, "key") for _ in range(50))]

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


@pytest.mark.parametrize("kind", bodies.TEXTS)
def test_large_bodies_are_json_of_their_size(kind: str) -> None:
    for made in (
        bodies.query(kind, 10_000),
        bodies.documents(kind, 10_000, 3, top_n=1),
        bodies.instruction(kind, 10_000),
    ):
        assert json.loads(made)["query"]
        assert 9_900 < len(made) < 10_200


def test_structured_bodies_are_json() -> None:
    for made in (
        bodies.score_pairs(10), bodies.rank_fields(3, 3), bodies.rank_fields_different(2, 60), bodies.whitespace(10),
        bodies.small_objects(20_000), bodies.object_documents(20_000), bodies.deep_objects(5_000),
        bodies.long_keys(5_000), bodies.images(5_000, plain=True), bodies.images(5_000, plain=False),
        bodies.query_batch(10, 5_000), gzip.decompress(bodies.bomb(3 * bodies.MIB, b'["', b'"]')),
    ):  # fmt: skip
        assert json.loads(made)


def test_attacks_have_names_of_their_own_and_a_quick_one_of_each_fact() -> None:
    attacks = every_attack()
    assert len({one.name for one in attacks}) == len(attacks)
    assert {one.fact for one in attacks if one.quick} >= {
        f"K{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    }


def test_a_name_chooses_one_attack_and_a_part_of_it_several() -> None:
    assert [one.name for one in chosen(["query-letter"], quick=False)] == ["query-letter"]
    assert len(chosen(["trailer"], quick=False)) > 3
    assert 10 < len(chosen([], quick=True)) < len(chosen([], quick=False))


def test_a_path_is_spelt_in_ways_that_differ() -> None:
    spelt = list(spellings("/v1/load"))
    assert len(set(spelt)) == len(spelt) > 20
