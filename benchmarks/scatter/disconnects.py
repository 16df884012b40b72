"""Disconnects: what is left behind by clients that hang up in the middle?

Simulated replicas at the default cost; admission lets everything in. First one client after the other: it sends a list
of 1,000 documents, hangs up while the engines work on it, and /v1/load is asked until it shows that nothing is left;
the same for longer steps, as a step under way is never interrupted. Then 1,000 clients, 200 at a time, that hang up at
a random moment of their first two seconds: while the request is read, tokenized, planned or scored. After each 200, how
long until /v1/load is empty, and the resident memory of the ingress and the replicas.

Limits: the p99 until a cancelled list has left all queues is 0.2 s; after the 1,000, nothing is in flight.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.scatter.client import Client, require_ok
from benchmarks.scatter.report import Result, percentiles, say
from benchmarks.scatter.service import Service, ServiceError, running
from benchmarks.scatter.workload import Lists, qwen_folder
from reranker.config import EngineConfig

REPLICAS, DOCUMENTS, WORDS = 2, 1_000, 91
CROWD, CROWD_DOCUMENTS = 200, 150
STEPS_S = (EngineConfig().target_step_s, 0.1, None)
"""The default; longer; None: always full batches, of 8,192 tokens."""
_HANG_UP_WITHIN_S = 2.0
_EMPTY_TIMEOUT_S = 120


def run(folder: Path, *, quick: bool) -> Result:
    """Hang up one by one, then in crowds; see the module's first lines."""
    singles, crowds = (10, 2) if quick else (100, 5)
    model = qwen_folder(folder)
    result = Result(
        "What is left behind by clients that hang up in the middle?",
        {"replicas": REPLICAS, "simulated": "default cost", "one_by_one": singles, "documents": DOCUMENTS}
        | {"words_per_document": WORDS, "crowds": crowds, "crowd": CROWD, "crowd_documents": CROWD_DOCUMENTS},
    )
    left_s = result.raw["until_a_list_has_left_s, by target_step_s"] = {}
    for step_s in STEPS_S:
        args = {
            "model": {"name": str(model)},
            "engine": {"target_step_s": step_s},
            "admission": {"max_queue_s": 3_600},
            "limits": {"timeout_s": 3_600},
        }
        with running(folder, args, REPLICAS) as service:
            left_s[str(step_s)] = asyncio.run(_one_by_one(service, singles))
            say(f"target_step_s {step_s}: gone after {left_s[str(step_s)]}")
            if step_s == STEPS_S[0]:
                asyncio.run(_crowds(service, crowds, result))
    p99_s = left_s[str(STEPS_S[0])]["p99"]
    result.check("p99 until a cancelled list has left all queues", p99_s, "<=", 0.2, "s")
    return result


async def _one_by_one(service: Service, times: int) -> dict[str, float]:
    lists, draw = Lists(11), random.Random(11)
    found_s = []
    async with Client(service.url) as client, httpx.AsyncClient(base_url=service.url, timeout=60) as asker:
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


async def _crowds(service: Service, crowds: int, result: Result) -> None:
    lists, draw = Lists(12), random.Random(12)
    memory = [_memory_mib(service)]
    empty_s, halfway = [], []
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
                answered = sum(not isinstance(one, BaseException) for one in await _ends(tasks))
                empty_s.append(await _until_empty(asker))
            memory.append(_memory_mib(service))
            say(
                f"crowd {number + 1}: {answered} answered before, {halfway[-1]['lists']} lists and "
                f"{halfway[-1]['shards']} shards in flight halfway, empty after {empty_s[-1]:.2f} s, MiB {memory[-1]}"
            )
        left = await _load(asker)
    result.raw |= {"until_empty_after_a_crowd_s": percentiles(empty_s), "memory_mib": memory}
    result.raw |= {"load_halfway": halfway, "load_at_the_end": left}
    result.check("lists, tokens and shards left after all", _in_flight(left), "<=", 0)


async def _ends(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _load(asker: httpx.AsyncClient) -> dict[str, Any]:
    response = await asker.get("/v1/load")
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
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


def _memory_mib(service: Service) -> dict[str, float]:
    engines = [process.memory_info().rss / 2**20 for process in service.engines()]
    return {"ingress": round(service.ingress().memory_info().rss / 2**20), "replica": round(statistics.mean(engines))}
