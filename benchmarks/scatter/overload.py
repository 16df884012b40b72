"""Overload: what do clients get when they send twice as much as the service can do, for a minute?

Two simulated replicas at the default cost, lists of 20 documents; the default configuration, so that 5 seconds of work
may be queued.
Measured in turn, on one service:

- unloaded: one list after the other; its p99 is the level that latency must come back to;
- capacity: the lists per second that clients get who always have some waiting, less than admission lets queue;
- overload: lists at random moments (a Poisson process) at twice the capacity, whatever the answers do; then, for some
  seconds, a probe every 0.2 s;
- what a refusal costs: as the client sees it, in processor time of each part, and in the admission alone. Lists are
  refused while one huge list is being scored: it fills the queue alone, and once it is tokenized only the replicas have
  to do with it. What the parts use when idle is subtracted.

Limits: in the overload, the lists ranked per second are at least 90 % of the capacity; all others get 429 with a
Retry-After of whole seconds from 1 to max_queue_s + 1; the p99 of the ranked ones is at most twice the unloaded one
plus max_queue_s; 5 s after its end, latency is back at the unloaded p99. The load generator is a process of its own,
and says how late it was.
"""

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import models
from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import INGRESS, Server, cpu_s, running
from benchmarks.texts import Lists
from reranker.config import AdmissionConfig, LimitsConfig, PrioritiesConfig
from reranker.errors import OverloadedError
from reranker.ranking.admission import Admission
from reranker.types import ReplicaLoad

REPLICAS, DOCUMENTS, WORDS = 2, 20, 91
SATURATING_CLIENTS = 64
"""Lists that wait while capacity is measured: two seconds of work, less than admission lets queue."""
MAX_QUEUE_S = AdmissionConfig().max_queue_s
_PROBE_EVERY_S, _PROBES, _RECOVERED_PROBES = 0.2, 60, 5
_IDLE_S, _MEASURED_S = 3.0, 1.5
_HUGE_DOCUMENTS, _LONG_DOCUMENTS = 9_000, 1_000
_CALLS, _SERIES = 20_000, 5


def run(quick: bool) -> Result:
    overload_s, capacity_s, unloaded = (10, 6, 60) if quick else (60, 25, 400)
    result = Result(
        "What do clients get when they send twice as much as the service can do?",
        {"replicas": REPLICAS, "documents": DOCUMENTS, "words_per_document": WORDS, "simulated": "default cost"}
        | {"overload_s": overload_s, "max_queue_s": MAX_QUEUE_S, "saturating_clients": SATURATING_CLIENTS},
    )
    with running({"model": {"name": str(models.checkpoint("nano"))}}, REPLICAS) as service:
        asyncio.run(_measure(service, result, overload_s, capacity_s, unloaded))
    result.raw["costs"]["admission alone, us per refusal"] = _microseconds_of_a_refusal()
    say(f"costs: {result.raw['costs']}")
    return result


async def _measure(service: Server, result: Result, overload_s: float, capacity_s: float, unloaded: int) -> None:
    lists = Lists(3)

    def bodies(count: float) -> list[bytes]:
        return [lists.body(DOCUMENTS, WORDS) for _ in range(round(count))]

    async with Client(service.url) as client:
        require_ok(await client.one_by_one(bodies(20)))
        calm = await client.one_by_one(bodies(unloaded), pause_s=0.02)
        require_ok(calm)
        unloaded_s = result.raw["unloaded_s"] = percentiles(took(calm))
        say(f"unloaded: p50 {unloaded_s['p50'] * 1e3:.0f} ms, p99 {unloaded_s['p99'] * 1e3:.0f} ms")

        capacity = await _capacity(client, bodies(60 * capacity_s), capacity_s)
        result.raw["capacity_lists_per_s"] = capacity
        say(f"capacity: {capacity:.1f} lists/s")

        ready, probes, draw = bodies(2 * capacity * overload_s), bodies(_PROBES), random.Random(5)
        moments_s = list(itertools.accumulate(draw.expovariate(2 * capacity) for _ in ready))
        generator = psutil.Process()
        own_s, front_s, start_s = cpu_s(generator), service.cpu_s()[INGRESS], time.perf_counter()
        probe_moments_s = [overload_s + number * _PROBE_EVERY_S for number in range(_PROBES)]
        probing = asyncio.create_task(client.at_moments(probes, probe_moments_s))
        answers, late_s = await client.at_moments(ready, moments_s)
        after, _ = await probing
        lasted_s = time.perf_counter() - start_s
        result.raw |= {
            "generator_cores": (cpu_s(generator) - own_s) / lasted_s,
            "front_cores": (service.cpu_s()[INGRESS] - front_s) / lasted_s,
            "sent_late_s": percentiles(late_s),
        }
        overloaded_s = max(answer.sent_s for answer in answers) - start_s
        _judge(result, answers, overloaded_s, capacity, unloaded_s["p99"])
        _judge_recovery(result, after, unloaded_s["p99"])
        result.raw["costs"] = await _costs(service, client, lists)


async def _capacity(client: Client, bodies: Sequence[bytes], seconds: float) -> float:
    """Lists per second, with some always waiting; the first and last tenth of the time left out."""
    start_s = time.perf_counter()
    end_s = start_s + seconds
    answers = await client.in_loops(SATURATING_CLIENTS, itertools.cycle(bodies), lambda: time.perf_counter() < end_s)
    require_ok(answers)
    done_s = [answer.sent_s + answer.took_s for answer in answers]
    first_s, last_s = start_s + 0.1 * seconds, end_s - 0.1 * seconds
    return sum(first_s <= moment_s < last_s for moment_s in done_s) / (last_s - first_s)


def _judge(result: Result, answers: Sequence[Answer], lasted_s: float, capacity: float, unloaded_p99_s: float) -> None:
    ranked = [answer for answer in answers if answer.ok]
    refused = [answer for answer in answers if answer.status == 429]
    # By when they were ranked: what is queued at the end was not done in the time.
    begun_s = min(answer.sent_s for answer in answers)
    in_time = sum(answer.sent_s + answer.took_s <= begun_s + lasted_s for answer in ranked)
    waits = Counter(answer.retry_after for answer in refused)
    result.raw |= {
        "sent": len(answers),
        "statuses": {str(status): count for status, count in Counter(one.status for one in answers).items()},
        "ranked_s": percentiles(took(answers)),
        "refused_s": percentiles([answer.took_s for answer in refused]),
        "retry_after": {str(wait): count for wait, count in sorted(waits.items(), key=str)},
    }
    say(f"overload: {result.raw['statuses']}, Retry-After {result.raw['retry_after']}")
    result.check("share of the capacity that was ranked", in_time / lasted_s / capacity, ">=", 0.9)
    result.check("answers that are neither ranked nor 429", len(answers) - len(ranked) - len(refused), "<=", 0)
    senseless = sum(not (wait or "").isdecimal() or not 1 <= int(wait or 0) <= MAX_QUEUE_S + 1 for wait in waits)
    result.check("refusals without a sensible Retry-After", senseless, "<=", 0)
    result.check("p99 of the ranked", percentiles(took(ranked))["p99"], "<=", 2 * unloaded_p99_s + MAX_QUEUE_S, "s")


def _judge_recovery(result: Result, probes: Sequence[Answer], unloaded_p99_s: float) -> None:
    """From which probe on a few in a row, and the median of all later ones, are at the unloaded level."""
    good = [answer.ok and answer.took_s <= unloaded_p99_s for answer in probes]
    later = [statistics.median([p.took_s if p.ok else np.inf for p in probes[i:]]) for i in range(len(probes))]
    recovered = (
        i
        for i in range(len(probes) - _RECOVERED_PROBES)
        if all(good[i : i + _RECOVERED_PROBES]) and later[i] <= unloaded_p99_s
    )
    result.raw["probes_after"] = [
        {"after_s": number * _PROBE_EVERY_S, "status": one.status, "took_s": one.took_s}
        for number, one in enumerate(probes)
    ]
    result.check("back at the unloaded p99 after the end", next(recovered, _PROBES) * _PROBE_EVERY_S, "<=", 5.0, "s")


async def _costs(service: Server, client: Client, lists: Lists) -> dict[str, Any]:
    """Lists ranked, lists refused, and long lists refused, one after the other."""
    before_s = service.cpu_s()
    await asyncio.sleep(_IDLE_S)
    idle_cores = {part: (spent_s - before_s[part]) / _IDLE_S for part, spent_s in service.cpu_s().items()}

    async def measure(bodies: list[bytes], *, status: int) -> dict[str, Any]:
        answers: list[Answer] = []
        before_s, start_s = service.cpu_s(), time.perf_counter()
        while (lasted_s := time.perf_counter() - start_s) < _MEASURED_S:
            answers.append(await client.rerank(bodies[len(answers) % len(bodies)]))
        after_s = service.cpu_s()
        if any(answer.status != status for answer in answers):
            raise RuntimeError(f"not all lists were answered {status}")
        per_list = {
            part: (after_s[part] - before_s[part] - idle_cores[part] * lasted_s) / len(answers) for part in idle_cores
        }
        times = percentiles([answer.took_s for answer in answers])
        return {"bytes": len(bodies[0]), "took_s": times, "cpu_s_per_list": per_list}

    short = [lists.body(DOCUMENTS, WORDS) for _ in range(40)]
    long = [lists.body(_LONG_DOCUMENTS, WORDS) for _ in range(4)]
    found = {"idle_cores": idle_cores, "ranked": await measure(short, status=200)}
    huge = asyncio.create_task(client.rerank(lists.body(_HUGE_DOCUMENTS, WORDS)))
    while await asyncio.to_thread(_pending_tokens, service) < _HUGE_DOCUMENTS * WORDS / 2:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # now all of it is tokenized and sent off
    found["refused"] = await measure(short, status=429)
    found["refused, long lists"] = await measure(long, status=429)
    require_ok([await huge])
    return found


def _pending_tokens(service: Server) -> int:
    load = httpx.get(f"{service.url}/v1/load", timeout=30).raise_for_status().json()
    return sum(one["pending_tokens"] for one in load["replicas"])


def _microseconds_of_a_refusal() -> float:
    """Of `Admission.require_any_room` with a full queue; the median of a few series."""
    admission = Admission(AdmissionConfig(), PrioritiesConfig(), LimitsConfig().timeout_s)
    full = ReplicaLoad(pending_tokens=10_000_000, tokens_per_s=80_000)
    times_us = []
    for _ in range(_SERIES):
        started_s = time.perf_counter()
        for _ in range(_CALLS):
            with contextlib.suppress(OverloadedError):
                admission.require_any_room(12_000, full)
        times_us.append((time.perf_counter() - started_s) / _CALLS * 1e6)
    return statistics.median(times_us)
