"""A list of 1,000 that is known, the same list when it is not, and what `vllm serve` takes for it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.scatter.report import Result, percentiles, say
from benchmarks.serving import machine, models, ours, vllm_serve
from benchmarks.serving.system import Bench, Launch, Server
from benchmarks.serving.texts import TextList, make_list

DOCUMENTS = 1_000
_FASTER_THAN_UNCACHED, _FASTER_THAN_VLLM_SERVE = 10, 50
_CLIENTS = 8


def run(shape: str, *, quick: bool) -> Result:
    """Ours twice, then theirs (not for the demo model: a limit of its own)."""
    bench = Bench(shape, models.checkpoint(shape), bool(machine.gpus()), models.dtype(shape))
    lists, again, seconds = (2, 5, 1.0) if quick else (5, 20, 5.0)
    parameters = {"shape": shape, "documents": DOCUMENTS, "words": 60, "lists": lists, "asked again": again}
    result = Result("How much faster is a list of 1,000 that is known?", parameters | {"clients": _CLIENTS})
    texts = [make_list("words", DOCUMENTS, f"cache/{number}") for number in range(lists)]
    with _running(ours.launch(bench, "cache.enabled=true"), "ours") as server:
        _ask(server, make_list("words", 50, "warm-up"))
        uncached = [_ask(server, one) for one in texts]
        cached = [_ask(server, one) for one in texts for _ in range(again)]
        for first, later in zip(uncached, cached[::again], strict=True):
            if later[1]["results"] != first[1]["results"]:
                raise RuntimeError("a known list has other scores")
        engine_pairs = sum(answer["meta"]["pairs"] for _, answer in cached)
        pairs_per_s = _throughput(server, texts, seconds)
    result.raw = {
        "uncached_s": percentiles([took_s for took_s, _ in uncached]),
        "cached_s": percentiles([took_s for took_s, _ in cached]),
        "cached_pairs_per_s": pairs_per_s,
    }
    uncached_s, cached_s = (statistics.median(took_s for took_s, _ in some) for some in (uncached, cached))
    result.check("pairs sent to an engine for known lists", engine_pairs, "<=", 0)
    result.check("cached against uncached, times faster", uncached_s / cached_s, ">=", _FASTER_THAN_UNCACHED)
    say(f"cached, {_CLIENTS} clients: {pairs_per_s:,.0f} pairs/s")
    if shape != "demo":
        with _running(vllm_serve.launch(bench, ""), "vllm-serve") as server:
            server.scores(make_list("words", 50, "warm-up"))
            theirs = [_seconds_of(server, one) for one in texts[: max(2, lists - 2)]]
        result.raw["vllm_serve_s"] = percentiles(theirs)
        ratio = statistics.median(theirs) / cached_s
        result.check("cached against `vllm serve`, times faster", ratio, ">=", _FASTER_THAN_VLLM_SERVE)
    return result


@contextmanager
def _running(launch: Launch, name: str) -> Iterator[Server]:
    say(f"starting {name}")
    server = Server(launch, f"cache-{name}")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def _ask(server: Server, texts: TextList) -> tuple[float, dict[str, Any]]:
    """Rank a list on a connection of its own, as a client that comes now and then; the time without reading JSON."""
    protocol = server.launch.protocol
    body = protocol.body(texts)
    with httpx.Client(base_url=server.url, timeout=600) as client:
        client.get("/health")  # connects
        started_s = time.perf_counter()
        response = client.post(protocol.path, content=body, headers={"Content-Type": "application/json"})
        took_s = time.perf_counter() - started_s
    answer: dict[str, Any] = response.raise_for_status().json()
    return took_s, answer


def _seconds_of(server: Server, texts: TextList) -> float:
    return _ask(server, texts)[0]


def _throughput(server: Server, texts: list[TextList], seconds: float) -> float:
    """Known pairs per second, to several clients at once."""
    bodies = [server.launch.protocol.body(one) for one in texts]
    until_s = time.monotonic() + seconds
    done: list[int] = []

    def send(client: int) -> None:
        with httpx.Client(base_url=server.url, timeout=600) as http:
            for number in range(client, 10**9):
                if time.monotonic() > until_s:
                    return
                body = bodies[number % len(bodies)]
                answer = http.post(server.launch.protocol.path, content=body)
                if answer.raise_for_status():
                    done.append(DOCUMENTS)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(_CLIENTS)]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started_s)
