"""Kills: what do clients notice when a replica is killed under load, 20 times in a row?

Eight clients send lists without a pause, drawn from some whose scores were taken before; a replica, drawn at random,
gets SIGKILL, the next one once all are back. With 4 simulated replicas, then with 2 of real vLLM and the demo model.

Limits: no request fails, and every answer has the scores that were taken before, to the last bit.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import ENGINE, Server, ServiceError, running
from benchmarks.texts import Lists

CLIENTS, LISTS = 8, 24
SIMULATED = {"replicas": 4, "documents": 200, "words": 60, "simulated": True}
REAL = {"replicas": 2, "documents": 60, "words": 30, "simulated": False}
_NOTICED_TIMEOUT_S, _BACK_TIMEOUT_S = 60, 240


def run(quick: bool) -> Result:
    kills = 3 if quick else 20
    result = Result(
        "What do clients notice when a replica is killed under load?",
        {"kills": kills, "clients": CLIENTS, "distinct_lists": LISTS, "simulated": SIMULATED, "vllm": REAL},
    )
    for name, how in (("simulated", SIMULATED), ("vllm", REAL)):
        # Let in everything: what a dead replica should have done queues up at the others, and a 429 is no failure.
        # Without the cache: a list that is sent again is to reach an engine again.
        args = {
            "admission": {"max_queue_s": 120},
            "limits": {"timeout_s": 120},
            "model": {"name": "demo"},
            "cache": {"enabled": False},
        }
        with running(args, int(how["replicas"]), simulated=bool(how["simulated"])) as service:
            raw = result.raw[name] = asyncio.run(_measure(service, how, kills))
        result.check(f"failed requests, {name}, of {raw['requests']}", raw["failed"], "<=", 0)
        result.check(f"largest difference of a score, {name}", raw["largest_difference"], "<=", 0)
    return result


async def _measure(service: Server, how: dict[str, Any], kills: int) -> dict[str, Any]:
    draw = Lists(7)
    bodies = [draw.body(how["documents"], how["words"]) for _ in range(LISTS)]
    async with Client(service.url) as client:
        first = await client.one_by_one(bodies)
        require_ok(first)
        scores = {body: answer.scores() for body, answer in zip(bodies, first, strict=True)}
        calm = await _under_load(client, bodies, lambda: asyncio.sleep(5))
        require_ok([answer for _, answer in calm])
        times_s: list[float] = []
        stormy = await _under_load(client, bodies, lambda: _kill(service, how["replicas"], kills, times_s))
    failed = [answer for _, answer in stormy if not answer.ok]
    for answer in failed[:5]:
        say(f"FAILED with {answer.status}: {answer.body[:200]!r}")
    metas = [answer.json()["meta"] for _, answer in stormy if answer.ok]
    differences = [_difference(scores[body], answer) for body, answer in stormy if answer.ok]
    return {
        "requests": len(stormy),
        "failed": len(failed),
        "statuses": {str(status): count for status, count in Counter(a.status for _, a in stormy).items()},
        "largest_difference": max(differences),
        "answers_equal_to_the_last_bit": sum(one == 0 for one in differences) / len(differences),
        "largest_difference_without_kills": max(_difference(scores[body], answer) for body, answer in calm),
        "retried_shards": sum(meta["retries"] for meta in metas),
        "hedged_shards": sum(meta["hedges"] for meta in metas),
        "latency_without_kills_s": percentiles(took([answer for _, answer in calm])),
        "latency_s": percentiles(took([answer for _, answer in stormy])),
        "until_the_replica_was_back_s": percentiles(times_s),
    }


async def _under_load(client: Client, bodies: list[bytes], during: Callable[[], Any]) -> list[tuple[bytes, Answer]]:
    """Load until `during` has ended; the answers, each with its request."""
    going_on = True
    pairs: list[tuple[bytes, Answer]] = []

    async def loop(start: int) -> None:
        for body in itertools.islice(itertools.cycle(bodies), start, None):
            if not going_on:
                return
            pairs.append((body, await client.rerank(body)))

    tasks = [asyncio.create_task(loop(number * LISTS // CLIENTS)) for number in range(CLIENTS)]
    try:
        await during()
    finally:
        going_on = False
        await asyncio.gather(*tasks)
    return pairs


async def _kill(service: Server, replicas: int, kills: int, times_s: list[float]) -> None:
    """Kill one replica after the other, each time waiting until it is back."""
    draw = random.Random(0)
    for number in range(kills):
        await asyncio.sleep(draw.uniform(0.5, 1.5))
        before = await asyncio.to_thread(service.processes, ENGINE)
        victim = draw.choice(sorted(before, key=lambda process: process.pid))
        victim.kill()
        killed_s = time.monotonic()
        await _until(service, lambda live: live < replicas, _NOTICED_TIMEOUT_S, "the replica's death is not noticed")
        noticed_s = time.monotonic() - killed_s
        await _until(service, lambda live: live >= replicas, _BACK_TIMEOUT_S, "the replica does not come back")
        times_s.append(time.monotonic() - killed_s)
        say(f"kill {number + 1}: process {victim.pid}, noticed in {noticed_s:.2f} s, back in {times_s[-1]:.1f} s")
        with contextlib.suppress(psutil.NoSuchProcess):
            if victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
                raise ServiceError(f"process {victim.pid} survived SIGKILL")


async def _until(service: Server, reached: Callable[[int], bool], timeout_s: float, problem: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not reached(await asyncio.to_thread(service.live_replicas)):
        if time.monotonic() > deadline_s:
            raise ServiceError(problem)
        await asyncio.sleep(0.02)


def _difference(scores: dict[int, float], answer: Answer) -> float:
    """The largest difference of a document's score; infinite if the documents are not the same."""
    now = answer.scores()
    if now.keys() != scores.keys():
        return float("inf")
    return max(abs(now[index] - score) for index, score in scores.items())
