"""A list of 1,000 that is known, the same list when it is not, and what `vllm serve` takes for it."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import Any

from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import Launch, Server
from benchmarks.serving.systems import Bench, ours, vllm_serve
from benchmarks.texts import TextList, make_list

DOCUMENTS = 1_000
_FASTER_THAN_UNCACHED, _FASTER_THAN_VLLM_SERVE = 10, 50
_CLIENTS = 8


def run(shape: str, *, quick: bool) -> Result:
    """Ours twice, then theirs (not for the demo model: a limit of its own)."""
    bench = Bench(shape)
    lists, again, seconds = (2, 5, 1.0) if quick else (5, 20, 5.0)
    parameters = {"shape": shape, "documents": DOCUMENTS, "words": 60, "lists": lists, "asked again": again}
    result = Result("How much faster is a list of 1,000 that is known?", parameters | {"clients": _CLIENTS})
    texts = [make_list("words", DOCUMENTS, f"cache/{number}") for number in range(lists)]
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
    result.check("cached against uncached, times faster", faster, ">=", _FASTER_THAN_UNCACHED)
    say(f"cached, {_CLIENTS} clients: {pairs_per_s:,.0f} pairs/s")
    if shape != "demo":
        with _server(vllm_serve(bench), "vllm-serve") as server:
            theirs = took(_ask(server, texts[: max(2, lists - 2)]))
        result.raw["vllm_serve_s"] = percentiles(theirs)
        ratio = statistics.median(theirs) / cached_s
        result.check("cached against `vllm serve`, times faster", ratio, ">=", _FASTER_THAN_VLLM_SERVE)
    return result


def _server(launch: Launch, name: str) -> Server:
    """Start one, and warm it."""
    say(f"starting {name}")
    server = Server(launch, f"cache-{name}")
    try:
        server.wait_until_ready()
        server.scores(make_list("words", 50, "warm-up"))
    except BaseException:
        server.stop()
        raise
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
