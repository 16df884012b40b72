"""Fairness: how long do lists of 10 documents take while a list of 600 is being scored?

Real vLLM on the CPU, one replica, one thread, a random model of the shape "small" (benchmarks/models.py). One client
sends a list of 600 documents, and the next as soon as it has its answer; two others send lists of 10 at fixed times,
whether or not the last was answered. Fixed times, so that both orders get the same work: clients that wait for their
answers would send fewer lists the longer they wait, and flatter first come, first served.

The same with `engine.scheduling: fcfs`, first come, first served, in alternating rounds, each on a service of its own.
Admission lets everything in: what is refused does not wait.

Limits: the p99 of the lists of 10 is at most 0.25 times what first come, first served gives, the median of the big
list's own times at most 1.15 times. Then, with fair queueing, what `engine.target_step_s` trades: a step cannot be
interrupted, so a small list waits for the one under way.
"""

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Self

from benchmarks import models
from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import running
from benchmarks.texts import Lists

SHAPE, WORDS = "small", 15
"""15 words are about 100 tokens of this model's, whose tokens are single bytes."""
BIG, SMALL = 600, 10
CLIENTS, LISTS_PER_BIG = 2, 5
"""Each of the small clients sends so many lists in the time that a big one takes alone: a sixth more work for both."""
STEPS_S = (0.02, 0.05, 0.1, 0.2, None)
"""None: always full batches, of 8,192 tokens."""
ORDERS = ("fair", "fcfs")


@dataclass(slots=True)
class Measured:
    """Latencies of some rounds, in seconds."""

    small_s: list[float] = field(default_factory=list)
    big_s: list[float] = field(default_factory=list)
    pairs: int = 0
    lasted_s: float = 0.0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.small_s + other.small_s,
            self.big_s + other.big_s,
            self.pairs + other.pairs,
            self.lasted_s + other.lasted_s,
        )

    def as_json(self) -> dict[str, Any]:
        latencies = {"small_s": percentiles(self.small_s), "big_s": percentiles(self.big_s)}
        return latencies | {"pairs_per_s": self.pairs / self.lasted_s}

    def __str__(self) -> str:
        return (
            f"{len(self.small_s)} small lists p50 {statistics.median(self.small_s):.2f} s, "
            f"p99 {percentiles(self.small_s)['p99']:.2f} s; big {statistics.median(self.big_s):.2f} s; "
            f"{self.pairs / self.lasted_s:.0f} pairs/s"
        )


def run(quick: bool) -> Result:
    rounds, bigs, swept_bigs = (1, 2, 1) if quick else (3, 7, 6)
    result = Result(
        "How long do lists of 10 documents take while one of 600 is being scored, and what does the big one pay?",
        {"model": f"random, shape {SHAPE}", "big": BIG, "small": SMALL, "words_per_document": WORDS}
        | {"small_clients": CLIENTS, "rounds": rounds, "big_lists_per_round": bigs},
    )
    measured = {order: Measured() for order in ORDERS}
    every_s = None
    for number, order in itertools.product(range(rounds), ORDERS):
        part, every_s = _measure(bigs, number, every_s, scheduling=order)
        measured[order] += part
        say(f"round {number + 1}, {order}: {part}")
    result.parameters["each_small_client_sends_every_s"] = every_s
    result.raw |= {order: one.as_json() for order, one in measured.items()}
    sweep = result.raw["by target_step_s"] = {}
    for step_s in STEPS_S:
        part, _ = _measure(swept_bigs, 100, every_s, target_step_s=step_s)
        sweep[str(step_s)] = part.as_json()
        say(f"target_step_s {step_s}: {part}")
    fair, fcfs = (result.raw[order] for order in ORDERS)
    small = fair["small_s"]["p99"] / fcfs["small_s"]["p99"]
    result.check("p99 of the lists of 10, fair over first come first served", small, "<=", 0.25)
    big = fair["big_s"]["p50"] / fcfs["big_s"]["p50"]
    result.check("the list of 600, fair over first come first served", big, "<=", 1.15)
    return result


def _measure(bigs: int, seed: int, every_s: float | None, **engine: Any) -> tuple[Measured, float]:
    """One round; `every_s` None: find out first how long a big list takes alone."""
    args = {
        "model": {"name": str(models.checkpoint(SHAPE, "bytes"))},
        # Random weights are no reranker: without the check that refuses them.
        "engine": {"device": "cpu", "startup_check": False, **engine},
        "admission": {"max_queue_s": 600},
        "limits": {"timeout_s": 600},
    }
    with running(args, 1, simulated=False) as service:
        return asyncio.run(_traffic(service.url, Lists(seed), bigs, every_s))


async def _traffic(url: str, lists: Lists, bigs: int, every_s: float | None) -> tuple[Measured, float]:
    async with Client(url, timeout_s=700) as client:
        require_ok(await client.one_by_one([lists.body(SMALL, WORDS), lists.body(BIG // 4, WORDS)]))
        if every_s is None:
            alone = await client.rerank(lists.body(BIG, WORDS))
            require_ok([alone])
            every_s = alone.took_s / LISTS_PER_BIG
            say(f"a big list alone takes {alone.took_s:.1f} s; each small client sends a list every {every_s:.2f} s")
        left = iter(range(bigs))
        started_s = time.perf_counter()
        big_task = asyncio.create_task(
            client.in_loops(1, iter(lambda: lists.body(BIG, WORDS), b""), lambda: next(left, None) is not None)
        )
        small_tasks: list[asyncio.Task[Answer]] = []
        for turn in itertools.count(1):
            moment_s = started_s + turn * every_s / CLIENTS  # one client's turn, then the other's
            done, _ = await asyncio.wait([big_task], timeout=max(0.0, moment_s - time.perf_counter()))
            if done:
                break
            small_tasks.append(asyncio.create_task(client.rerank(lists.body(SMALL, WORDS))))
        big, small = big_task.result(), list(await asyncio.gather(*small_tasks))
        lasted_s = time.perf_counter() - started_s
    require_ok([*big, *small])
    return Measured(took(small), took(big), len(big) * BIG + len(small) * SMALL, lasted_s), every_s
