"""Overload: what do clients get when they send twice as much as the service can do, for a minute?

Two simulated replicas at the default cost, lists of 20 documents; the default configuration, so that 5 seconds of work
may be queued.
Measured in turn, on one service:

- unloaded: one list after the other; its p99 is the level that latency must come back to;
- capacity: the lists per second that clients get who always have some waiting, less than admission lets queue;
- overload: lists at random moments (a Poisson process) at twice the capacity, whatever the answers do; then, for some
  seconds, a probe every 0.2 s;
- what a refusal costs, in time and in processor time (benchmarks/scatter/refusals.py).

Limits: in the overload, the lists ranked per second are at least 90 % of the capacity; all others get 429 with a
Retry-After of whole seconds from 1 to max_queue_s + 1; the p99 of the ranked ones is at most twice the unloaded one
plus max_queue_s; 5 s after its end, latency is back at the unloaded p99. The load generator is a process of its own,
and says how late it was.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.scatter.client import Answer, Client, require_ok, took
from benchmarks.scatter.refusals import costs, microseconds_of_a_refusal
from benchmarks.scatter.report import Result, percentiles, say
from benchmarks.scatter.service import Service, cpu_s, running
from benchmarks.scatter.workload import Lists, qwen_folder
from reranker.config import AdmissionConfig

REPLICAS, DOCUMENTS, WORDS = 2, 20, 91
SATURATING_CLIENTS = 64
"""Lists that wait while capacity is measured: two seconds of work, less than admission lets queue."""
MAX_QUEUE_S = AdmissionConfig().max_queue_s
_PROBE_EVERY_S, _PROBES = 0.2, 60
_RECOVERED_PROBES = 5


def run(folder: Path, *, quick: bool) -> Result:
    """Measure in turn; see the module's first lines."""
    overload_s, capacity_s, unloaded = (10, 6, 60) if quick else (60, 25, 400)
    args = {"model": {"name": str(qwen_folder(folder))}}
    result = Result(
        "What do clients get when they send twice as much as the service can do?",
        {"replicas": REPLICAS, "documents": DOCUMENTS, "words_per_document": WORDS, "simulated": "default cost"}
        | {"overload_s": overload_s, "max_queue_s": MAX_QUEUE_S, "saturating_clients": SATURATING_CLIENTS},
    )
    with running(folder, args, REPLICAS) as service:
        asyncio.run(_measure(service, result, overload_s, capacity_s, unloaded))
    result.raw["costs"]["admission alone, us per refusal"] = microseconds_of_a_refusal()
    say(f"costs: {result.raw['costs']}")
    return result


async def _measure(service: Service, result: Result, overload_s: float, capacity_s: float, unloaded: int) -> None:
    lists = Lists(3)
    bodies = (lists.body(DOCUMENTS, WORDS) for _ in itertools.count())
    async with Client(service.url) as client:
        require_ok(await client.one_by_one(list(itertools.islice(bodies, 20))))
        calm = await client.one_by_one(list(itertools.islice(bodies, unloaded)), pause_s=0.02)
        require_ok(calm)
        unloaded_p99_s = percentiles(took(calm))["p99"]
        result.raw["unloaded_s"] = percentiles(took(calm))
        say(f"unloaded: p50 {result.raw['unloaded_s']['p50'] * 1e3:.0f} ms, p99 {unloaded_p99_s * 1e3:.0f} ms")

        capacity = await _capacity(client, list(itertools.islice(bodies, round(60 * capacity_s))), capacity_s)
        result.raw["capacity_lists_per_s"] = capacity
        say(f"capacity: {capacity:.1f} lists/s")

        ready = list(itertools.islice(bodies, round(2 * capacity * overload_s)))
        probes = list(itertools.islice(bodies, _PROBES))
        generator = psutil.Process()
        own_s, front_s, start_s = cpu_s([generator]), cpu_s(service.fronts()), time.perf_counter()
        probing = asyncio.create_task(_probe(client, probes, start_s + overload_s))
        answers, late_s = await client.at_rate(ready, 2 * capacity, seed=5)
        after = await probing
        lasted_s = max(answer.sent_s for answer in answers) - start_s
        result.raw["generator_cores"] = (cpu_s([generator]) - own_s) / (time.perf_counter() - start_s)
        result.raw["front_cores"] = (cpu_s(service.fronts()) - front_s) / (time.perf_counter() - start_s)
        result.raw["sent_late_s"] = percentiles(late_s)
        _judge(result, answers, lasted_s, capacity, unloaded_p99_s)
        _judge_recovery(result, after, unloaded_p99_s)
        result.raw["costs"] = await costs(service, client, lists, DOCUMENTS, WORDS)


async def _capacity(client: Client, bodies: Sequence[bytes], seconds: float) -> float:
    """Lists per second, with some always waiting; the first and last tenth of the time left out."""
    start_s = time.perf_counter()
    end_s = start_s + seconds
    answers = await client.in_loops(SATURATING_CLIENTS, itertools.cycle(bodies), lambda: time.perf_counter() < end_s)
    require_ok(answers)
    done_s = [answer.sent_s + answer.took_s for answer in answers]
    first_s, last_s = start_s + 0.1 * seconds, end_s - 0.1 * seconds
    return sum(first_s <= moment_s < last_s for moment_s in done_s) / (last_s - first_s)


async def _probe(client: Client, bodies: Sequence[bytes], from_s: float) -> list[Answer]:
    """A list every now and then, from a moment on; the first at that moment."""
    tasks = []
    for number, body in enumerate(bodies):
        await asyncio.sleep(max(0.0, from_s + number * _PROBE_EVERY_S - time.perf_counter()))
        tasks.append(asyncio.create_task(client.rerank(body)))
    return list(await asyncio.gather(*tasks))


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
