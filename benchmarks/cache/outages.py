"""What clients notice when the Redis behind two ingress replicas is killed, paused, flushed or filled with rubbish."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from benchmarks.load import Answer, Client
from benchmarks.results import Result, percentiles, say
from benchmarks.service import Redis, configuration, running
from benchmarks.texts import make_list
from reranker.config import RedisConfig

_REPLICAS, _INGRESSES, _CLIENTS, _DOCUMENTS, _LISTS = 2, 2, 4, 40, 30
Act = Callable[[], object]


def run(folder: Path, *, quick: bool) -> Result:
    """One phase after the other, under the same load."""
    phase_s = 2.0 if quick else 8.0
    budget_s = RedisConfig().budget_s
    result = Result(
        "What do clients notice when Redis is in trouble?",
        {"engine_replicas": _REPLICAS, "ingress_replicas": _INGRESSES, "clients": _CLIENTS, "documents": _DOCUMENTS}
        | {"lists": _LISTS, "phase_s": phase_s, "budget_s": budget_s, "memory_mib": 0},
    )
    with ExitStack() as stack:
        server = stack.enter_context(Redis(folder))
        config = configuration(
            {
                "engine": {"simulated": {"tokens_per_s": 200_000}},
                "cache": {"enabled": True, "memory_mib": 0, "redis": {"url": server.url}},
            }
        )
        [ingress] = [one for one in config["applications"][0]["deployments"] if one["name"] == "Ingress"]
        ingress["num_replicas"] = _INGRESSES
        service = stack.enter_context(running(config, _REPLICAS, simulated=False))
        asyncio.run(_measure(service.url, server, phase_s, result))
    without = result.raw["no cache"]["took_s"]["p99"]
    for name in ("killed", "paused", "flushed", "wrong bytes"):
        result.check(f"failed requests, {name}", result.raw[name]["failed"], "<=", 0)
        added_s = result.raw[name]["took_s"]["p99"] - without
        result.check(f"added latency at p99, {name}", added_s, "<=", budget_s, "s")
    for name in ("after killed", "after paused", "after flushed", "after wrong bytes"):
        result.check(f"known lists of all, {name}", result.raw[name]["known"], ">=", 0.95)
    return result


async def _measure(url: str, server: Redis, phase_s: float, result: Result) -> None:
    lists = [make_list("words", _DOCUMENTS, f"outages/{number}") for number in range(_LISTS)]

    async def phase(name: str, seconds: float, do: Act = bool, undo: Act = bool, **fields: Any) -> None:
        """Load for some time, with something done a quarter of it before."""
        bodies = [json.dumps({"query": one.query, "documents": one.documents, **fields}).encode() for one in lists]
        going_on = True
        async with Client(url, timeout_s=60) as client:
            loading = asyncio.create_task(client.in_loops(_CLIENTS, itertools.cycle(bodies), lambda: going_on))
            if do is not bool:
                await asyncio.sleep(seconds / 4)
            began_s = asyncio.get_running_loop().time()  # the clock of Answer.sent_s, too
            await asyncio.to_thread(do)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(undo)
            going_on = False
            answers = [one for one in await loading if one.sent_s + one.took_s >= began_s]
        failed = sum(not _whole(one) for one in answers)
        known = sum(_whole(one) and one.json()["meta"]["pairs"] == 0 for one in answers) / max(1, len(answers))
        took_s = percentiles([one.took_s for one in answers])
        result.raw[name] = {"took_s": took_s, "failed": failed, "known": known}
        say(f"{name}: {result.raw[name]}")

    async def during(name: str, do: Act, undo: Act) -> None:
        await phase(name, phase_s, do, undo)
        await phase("(recovering)", 5)
        await phase(f"after {name}", phase_s / 2)

    await phase("(warm-up)", phase_s / 2)
    await phase("no cache", phase_s, cache="off")
    await phase("all known", phase_s)
    await during("killed", server.kill, server.start)
    pause, go_on = signal.SIGSTOP, signal.SIGCONT
    await during("paused", lambda: server.process.send_signal(pause), lambda: server.process.send_signal(go_on))
    with redis.Redis(port=server.port) as client:
        for name, what in (("flushed", _flush), ("wrong bytes", _spoil)):
            stop = threading.Event()
            thread = threading.Thread(target=what, args=(client, stop))
            await during(name, thread.start, lambda stop=stop, thread=thread: (stop.set(), thread.join()))  # type: ignore[misc]


def _whole(answer: Answer) -> bool:
    return answer.ok and len(answer.json()["results"]) == _DOCUMENTS


def _flush(client: redis.Redis, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        client.flushall()


def _spoil(client: redis.Redis, stop: threading.Event) -> None:
    draw = random.Random(1)
    while not stop.wait(0.2):
        pipeline = client.pipeline(transaction=False)
        for name in list(client.scan_iter(count=1_000)):
            pipeline.set(name, draw.randbytes(16))
        pipeline.execute()
