"""Disconnects: what is left behind by clients that hang up in the middle?

Simulated replicas at the default cost; admission lets everything in. First one client after the other: it sends a list
of 1,000 documents, hangs up while the engines work on it, and /v1/load is asked until it shows that nothing is left;
the same for longer steps, as a step under way is never interrupted. Then 1,000 clients, 200 at a time, that hang up at
a random moment of their first two seconds: while the request is read, tokenized, planned or scored. After each 200, how
long until /v1/load is empty, and the resident memory of the ingress and the replicas.

Limits: the p99 until a cancelled list has left all queues is 0.2 s; after the 1,000, nothing is in flight.
"""

import asyncio
import random
import statistics
import time
from typing import Any

import httpx

from benchmarks import models
from benchmarks.load import Client, require_ok
from benchmarks.results import Result, percentiles, say
from benchmarks.service import ENGINE, INGRESS, Server, ServiceError, running
from benchmarks.texts import Lists
from reranker.config import EngineConfig

REPLICAS, DOCUMENTS, WORDS = 2, 1_000, 91
CROWD, CROWD_DOCUMENTS = 200, 150
STEPS_S = (EngineConfig().target_step_s, 0.1, None)
"""The default; longer; None: always full batches, of 8,192 tokens."""
_HANG_UP_WITHIN_S, _EMPTY_TIMEOUT_S = 2.0, 120


def run(quick: bool) -> Result:
    singles, crowds = (10, 2) if quick else (100, 5)
    model = {"name": str(models.checkpoint("nano"))}
    result = Result(
        "What is left behind by clients that hang up in the middle?",
        {"replicas": REPLICAS, "simulated": "default cost", "one_by_one": singles, "documents": DOCUMENTS}
        | {"words_per_document": WORDS, "crowds": crowds, "crowd": CROWD, "crowd_documents": CROWD_DOCUMENTS},
    )
    left_s = result.raw["until_a_list_has_left_s, by target_step_s"] = {}
    for step_s in STEPS_S:
        patient = {"admission": {"max_queue_s": 3_600}, "limits": {"timeout_s": 3_600}}
        args = {"model": model, "engine": {"target_step_s": step_s}, **patient}
        with running(args, REPLICAS) as service:
            left_s[str(step_s)] = asyncio.run(_one_by_one(service.url, singles))
            say(f"target_step_s {step_s}: gone after {left_s[str(step_s)]}")
            if step_s == STEPS_S[0]:
                asyncio.run(_crowds(service, crowds, result))
    p99_s = left_s[str(STEPS_S[0])]["p99"]
    result.check("p99 until a cancelled list has left all queues", p99_s, "<=", 0.2, "s")
    return result


async def _one_by_one(url: str, times: int) -> dict[str, float]:
    lists, draw = Lists(11), random.Random(11)
    found_s = []
    async with Client(url) as client, httpx.AsyncClient(base_url=url, timeout=60) as asker:
        require_ok(await client.one_by_one([lists.body(DOCUMENTS, WORDS) for _ in range(2)]))
        for _ in range(times):
            task = asyncio.create_task(client.rerank(lists.body(DOCUMENTS, WORDS)))
            while not any(one["pending_tokens"] for one in (await _load(asker))["replicas"]):
                if task.done():
                    raise ServiceError("the list was scored before its client could hang up")
                await asyncio.sleep(0.01)
            await asyncio.sleep(draw.uniform(0, 0.25))
            task.cancel()
            found_s.append(await _until_empty(asker))
            await asyncio.gather(task, return_exceptions=True)
    return percentiles(found_s)


async def _crowds(service: Server, crowds: int, result: Result) -> None:
    lists, draw = Lists(12), random.Random(12)
    memory, empty_s, halfway = [_memory_mib(service)], [], []
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as asker:
        for number in range(crowds):
            bodies = [lists.body(CROWD_DOCUMENTS, WORDS) for _ in range(CROWD)]
            async with Client(service.url) as client:
                tasks = [asyncio.create_task(client.rerank(body)) for body in bodies]
                moments_s = sorted(draw.uniform(0, _HANG_UP_WITHIN_S) for _ in tasks)
                start_s = time.perf_counter()
                for place, (moment_s, task) in enumerate(zip(moments_s, draw.sample(tasks, CROWD), strict=True)):
                    if place == CROWD // 2:
                        halfway.append(await _load(asker))
                    await asyncio.sleep(max(0.0, start_s + moment_s - time.perf_counter()))
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                empty_s.append(await _until_empty(asker))
            memory.append(_memory_mib(service))
            say(
                f"crowd {number + 1}: {sum(not isinstance(one, BaseException) for one in ends)} answered before, "
                f"{halfway[-1]['lists']} lists and {halfway[-1]['shards']} shards in flight halfway, "
                f"empty after {empty_s[-1]:.2f} s, MiB {memory[-1]}"
            )
        left = await _load(asker)
    result.raw |= {"until_empty_after_a_crowd_s": percentiles(empty_s), "memory_mib": memory}
    result.raw |= {"load_halfway": halfway, "load_at_the_end": left}
    result.check("lists, tokens and shards left after all", _in_flight(left), "<=", 0)


async def _load(asker: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await asker.get("/v1/load")).raise_for_status().json()
    return answer


def _in_flight(load: dict[str, Any]) -> int:
    waiting: int = load["lists"] + load["tokens"] + load["shards"]
    pending: int = sum(one["pending_tokens"] for one in load["replicas"])
    return waiting + pending


async def _until_empty(asker: httpx.AsyncClient) -> float:
    """Seconds from now until nothing is in flight."""
    start_s = time.perf_counter()
    while _in_flight(await _load(asker)):
        if time.perf_counter() - start_s > _EMPTY_TIMEOUT_S:
            raise ServiceError("what was cancelled stays in the queues")
    return time.perf_counter() - start_s


def _memory_mib(service: Server) -> dict[str, float]:
    """Of the ingress, and the mean of the replicas."""
    roles = {"ingress": INGRESS, "replica": ENGINE}
    rss = {name: [one.memory_info().rss / 2**20 for one in service.processes(role)] for name, role in roles.items()}
    return {name: round(statistics.mean(mib)) for name, mib in rss.items()}
