"""Measure the score cache; writes benchmarks/results/cache.json.

    python -m benchmarks.cache [--only pieces demo small outages] [--quick]

pieces: what each piece of a known list costs, in this process: so that the key is made of texts and not of tokens.
demo, small: a list of 1,000 that is known, the same list when it is not, and what `vllm serve` takes for it.
outages: what clients notice when the Redis behind two ingress replicas is killed, paused, flushed or filled with
rubbish.
"""

import asyncio
import itertools
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis

from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.models import checkpoint
from benchmarks.results import Result, percentiles, run_experiments, say
from benchmarks.service import Launch, Server, configuration, running, started
from benchmarks.serving.systems import Bench, ours, vllm_serve
from benchmarks.stages import milliseconds
from benchmarks.texts import TextList, make_list
from reranker.cache.entry import Entry, pack, unpack
from reranker.cache.keys import ListTerms, document_keys
from reranker.cache.memory import MemoryStore
from reranker.cache.redis import RedisLink, RedisStore, redis_client
from reranker.config import RedisConfig
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.types import EngineScores
from tests.redis_server import RedisServer

DOCUMENTS, WORDS = 1_000, 60
FASTER_THAN_UNCACHED, FASTER_THAN_VLLM_SERVE = 10, 50
_CLIENTS = 8
"""At once, for known lists."""
_REPLICAS, _INGRESSES, _OUTAGE_CLIENTS, _OUTAGE_DOCUMENTS, _LISTS = 2, 2, 4, 40, 30
Act = Callable[[], object]


def pieces(quick: bool) -> Result:
    """Time every piece; the best of several."""
    times = 3 if quick else 15
    parameters = {"documents": DOCUMENTS, "words": WORDS, "times": times}
    result = Result("What does each piece of a known list cost?", parameters)
    texts = make_list("words", DOCUMENTS, "cache")
    renderer = PromptRenderer(checkpoint("small"), 8_192, "instruction")
    terms = ListTerms("model", renderer.fingerprint, "", "instruction", texts.query, CuttingPolicy())
    found: dict[str, float] = {}

    def timed(name: str, call: Act) -> None:
        found[name] = min(milliseconds(call, times))
        say(f"{name}: {found[name]:.2f} ms")

    timed("tokenize, and lay out prompts", lambda: renderer.render(texts.query, texts.documents))
    timed("make keys", lambda: document_keys(terms, texts.documents))
    rendered = renderer.render(texts.query, texts.documents)
    pairs = len(rendered.prompts)
    scores = EngineScores(np.linspace(-5, 5, pairs, dtype=np.float32), np.ones(pairs, dtype=np.bool_))
    timed("pack scores", lambda: pack(rendered, scores))
    keys = document_keys(terms, texts.documents)
    entries = {key: entry for key, entry in zip(keys, pack(rendered, scores), strict=True) if entry is not None}
    timed("unpack scores", lambda: unpack(list(entries.values())))
    memory = MemoryStore(2**26)
    timed("write to memory", lambda: memory.put_many(entries))
    timed("read from memory", lambda: asyncio.run(memory.get_many(keys)))
    asyncio.run(_redis_pieces(entries, times, found))
    result.raw = {"ms": found, "tokens": rendered.prompts.prompt_tokens}
    ratio = found["tokenize, and lay out prompts"] / found["make keys"]
    result.check("keys of texts against tokenizing, times faster", ratio, ">=", 10)
    return result


async def _redis_pieces(entries: dict[bytes, Entry], times: int, found: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        config = RedisConfig(url=server.url, budget_s=2)
        store = RedisStore(RedisLink(redis_client(config, None), config.budget_s, "benchmark"), config)
        keys = list(entries)
        await store.get_many(keys)
        for name in ("write to Redis, in the background", "read from Redis"):
            took_s = []
            for _ in range(times):
                started_s = time.perf_counter()
                if name.startswith("write"):
                    store.put_many(entries)
                    await store.written()
                else:
                    assert None not in await store.get_many(keys)  # noqa: S101 - else it would be quick
                took_s.append(time.perf_counter() - started_s)
            found[name] = min(took_s) * 1e3
            say(f"{name}: {found[name]:.2f} ms")
        await store.aclose()


def lists(shape: str, quick: bool) -> Result:
    """Ours twice, then theirs (not for the demo model: a limit of its own)."""
    bench = Bench(shape)
    count, again, seconds = (2, 5, 1.0) if quick else (5, 20, 5.0)
    parameters = {"shape": shape, "documents": DOCUMENTS, "words": WORDS, "lists": count, "asked again": again}
    result = Result("How much faster is a list of 1,000 that is known?", parameters | {"clients": _CLIENTS})
    texts = [make_list("words", DOCUMENTS, f"cache/{number}") for number in range(count)]
    with _server(ours(bench, "cache.enabled=true"), "ours") as server:
        uncached = _ask(server, texts)
        cached = _ask(server, [one for one in texts for _ in range(again)])
        for first, later in zip(uncached, cached[::again], strict=True):
            if later.json()["results"] != first.json()["results"]:
                raise RuntimeError("a known list has other scores")
        pairs_per_s = asyncio.run(_throughput(server, texts, seconds))
    cached_s = statistics.median(took(cached))
    result.raw = {"uncached_s": percentiles(took(uncached)), "cached_s": percentiles(took(cached))}
    result.raw["cached_pairs_per_s"] = pairs_per_s
    engine_pairs = sum(answer.json()["meta"]["pairs"] for answer in cached)
    result.check("pairs sent to an engine for known lists", engine_pairs, "<=", 0)
    faster = statistics.median(took(uncached)) / cached_s
    result.check("cached against uncached, times faster", faster, ">=", FASTER_THAN_UNCACHED)
    say(f"cached, {_CLIENTS} clients: {pairs_per_s:,.0f} pairs/s")
    if shape != "demo":
        with _server(vllm_serve(bench), "vllm-serve") as server:
            theirs = took(_ask(server, texts[: max(2, count - 2)]))
        result.raw["vllm_serve_s"] = percentiles(theirs)
        ratio = statistics.median(theirs) / cached_s
        result.check("cached against `vllm serve`, times faster", ratio, ">=", FASTER_THAN_VLLM_SERVE)
    return result


def _server(launch: Launch, name: str) -> Server:
    say(f"starting {name}")
    server = started(launch, f"cache-{name}")
    _ask(server, [make_list("words", 50, "warm-up")])
    return server


def _ask(server: Server, texts: list[TextList]) -> list[Answer]:
    """Rank lists, each on a connection of its own, as a client that comes now and then; without reading JSON."""

    async def ask() -> list[Answer]:
        answers = []
        for one in texts:
            body = server.launch.protocol.body(one)
            async with Client(server.url, 600, server.launch.protocol.path) as client:
                answers.append(await client.rerank(body))
        return answers

    answers = asyncio.run(ask())
    require_ok(answers)
    return answers


async def _throughput(server: Server, texts: list[TextList], seconds: float) -> float:
    """Known pairs per second, to several clients at once."""
    bodies = itertools.cycle([server.launch.protocol.body(one) for one in texts])
    async with Client(server.url, 600) as client:
        started_s = time.monotonic()
        answers: list[Any] = await client.in_loops(_CLIENTS, bodies, lambda: time.monotonic() < started_s + seconds)
        lasted_s = time.monotonic() - started_s
    require_ok(answers)
    return len(answers) * DOCUMENTS / lasted_s


def outages(quick: bool) -> Result:
    """One phase after the other, under the same load."""
    phase_s = 2.0 if quick else 8.0
    budget_s = RedisConfig().budget_s
    parameters = {"engine_replicas": _REPLICAS, "ingress_replicas": _INGRESSES, "clients": _OUTAGE_CLIENTS}
    parameters |= {"documents": _OUTAGE_DOCUMENTS, "lists": _LISTS, "memory_mib": 0}
    question = "What do clients notice when Redis is in trouble?"
    result = Result(question, parameters | {"phase_s": phase_s, "budget_s": budget_s})
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(RedisServer(Path(folder)))
        cache = {"enabled": True, "memory_mib": 0, "redis": {"url": server.url}}
        config = configuration({"engine": {"simulated": {"tokens_per_s": 200_000}}, "cache": cache})
        [ingress] = [one for one in config["applications"][0]["deployments"] if one["name"] == "Ingress"]
        ingress["num_replicas"] = _INGRESSES
        service = stack.enter_context(running(config, _REPLICAS, simulated=False))
        asyncio.run(_outages(service.url, server, phase_s, result))
    without = result.raw["no cache"]["took_s"]["p99"]
    for name in ("killed", "paused", "flushed", "wrong bytes"):
        result.check(f"failed requests, {name}", result.raw[name]["failed"], "<=", 0)
        added_s = result.raw[name]["took_s"]["p99"] - without
        result.check(f"added latency at p99, {name}", added_s, "<=", budget_s, "s")
    for name in ("after killed", "after paused", "after flushed", "after wrong bytes"):
        result.check(f"known lists of all, {name}", result.raw[name]["known"], ">=", 0.95)
    return result


async def _outages(url: str, server: RedisServer, phase_s: float, result: Result) -> None:
    lists = [make_list("words", _OUTAGE_DOCUMENTS, f"outages/{number}") for number in range(_LISTS)]

    async def phase(name: str, seconds: float, do: Act = bool, undo: Act = bool, **fields: Any) -> None:
        """Load for some time, with something done a quarter of it before."""
        bodies = [json.dumps({"query": one.query, "documents": one.documents, **fields}).encode() for one in lists]
        going_on = True
        async with Client(url, timeout_s=60) as client:
            loading = asyncio.create_task(client.in_loops(_OUTAGE_CLIENTS, itertools.cycle(bodies), lambda: going_on))
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
    await during("paused", server.pause, server.resume)
    with redis.Redis(port=server.port) as client:
        for name, what in (("flushed", _flush), ("wrong bytes", _spoil)):
            stop = threading.Event()
            thread = threading.Thread(target=what, args=(client, stop))
            await during(name, thread.start, lambda stop=stop, thread=thread: (stop.set(), thread.join()))  # type: ignore[misc]


def _whole(answer: Answer) -> bool:
    return answer.ok and len(answer.json()["results"]) == _OUTAGE_DOCUMENTS


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


EXPERIMENTS: dict[str, Callable[[bool], Result]] = {
    "pieces": pieces,
    "demo": partial(lists, "demo"),
    "small": partial(lists, "small"),
    "outages": outages,
}

if __name__ == "__main__":
    raise SystemExit(run_experiments(__doc__, EXPERIMENTS, "cache.json", lambda _: None))
