"""What clients notice when the Redis behind two ingress replicas is killed, paused, flushed or filled with rubbish."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis
import yaml

from benchmarks.cache.redis import RedisProcess
from benchmarks.scatter.report import Result, percentiles, say
from benchmarks.scatter.service import Service, configuration
from benchmarks.serving.texts import TextList, make_list
from reranker.config import RedisConfig

_REPLICAS, _INGRESSES, _CLIENTS, _DOCUMENTS, _LISTS = 2, 2, 4, 40, 30


@dataclass
class Clients:
    """Clients that send lists one after the other, and note how long each took and whether it failed."""

    url: str
    lists: Sequence[TextList]
    fields: dict[str, Any] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    hits: int = 0
    failed: int = 0

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Send for as long as the block lasts."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._send, args=(number, stop)) for number in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _send(self, client: int, stop: threading.Event) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for one in itertools.islice(itertools.cycle(self.lists), client, None):
                if stop.is_set():
                    return
                started_s = time.perf_counter()
                response = http.post("/v1/rerank", json={"query": one.query, "documents": one.documents, **self.fields})
                self.took_s.append(time.perf_counter() - started_s)
                self.failed += response.status_code != 200 or len(response.json()["results"]) != len(one.documents)
                self.hits += response.status_code == 200 and response.json()["meta"]["pairs"] == 0


def run(folder: Path, *, quick: bool) -> Result:
    """One phase after the other, under the same load."""
    phase_s = 2.0 if quick else 8.0
    budget_s = RedisConfig().budget_s
    parameters = {
        "engine_replicas": _REPLICAS,
        "ingress_replicas": _INGRESSES,
        "clients": _CLIENTS,
        "documents": _DOCUMENTS,
        "lists": _LISTS,
        "phase_s": phase_s,
        "budget_s": budget_s,
        "memory_mib": 0,
    }
    result = Result("What do clients notice when Redis is in trouble?", parameters)
    lists = [make_list("words", _DOCUMENTS, f"outages/{number}") for number in range(_LISTS)]
    server = RedisProcess(folder)
    args = {
        "engine": {"simulated": {"tokens_per_s": 200_000}},
        "cache": {"enabled": True, "memory_mib": 0, "redis": {"url": server.url}},
    }
    config = configuration(args)
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "Ingress":
            deployment["num_replicas"] = _INGRESSES
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    service = Service(path, _REPLICAS, folder, simulated=False)
    try:
        service.wait_until_ready(_REPLICAS)
        _measure(service.url, lists, server, phase_s, result)
    finally:
        service.stop()
        server.kill()
    without = result.raw["no cache"]["took_s"]["p99"]
    for name in ("killed", "paused", "flushed", "wrong bytes"):
        result.check(f"failed requests, {name}", result.raw[name]["failed"], "<=", 0)
        added_s = result.raw[name]["took_s"]["p99"] - without
        result.check(f"added latency at p99, {name}", added_s, "<=", budget_s, "s")
    for name in ("after killed", "after paused", "after flushed", "after wrong bytes"):
        result.check(f"known lists of all, {name}", result.raw[name]["known"], ">=", 0.95)
    return result


def _measure(url: str, lists: Sequence[TextList], server: RedisProcess, phase_s: float, result: Result) -> None:
    def phase(name: str, seconds: float, **fields: Any) -> None:
        clients = Clients(url, lists, fields)
        with clients.sending():
            time.sleep(seconds)
        figures = {"took_s": percentiles(clients.took_s), "failed": clients.failed}
        result.raw[name] = figures | {"known": clients.hits / max(1, len(clients.took_s))}
        say(f"{name}: {result.raw[name]}")

    def during(name: str, do: Any, undo: Any) -> None:
        clients = Clients(url, lists)
        with clients.sending():
            time.sleep(phase_s / 4)
            clients.took_s.clear()
            do()
            time.sleep(phase_s)
            undo()
        result.raw[name] = {"took_s": percentiles(clients.took_s), "failed": clients.failed}
        say(f"{name}: {result.raw[name]}")
        phase("(recovering)", 5)
        phase(f"after {name}", phase_s / 2)

    phase("(warm-up)", phase_s / 2)
    phase("no cache", phase_s, cache="off")
    phase("all known", phase_s)
    during("killed", server.kill, server.start)
    during(
        "paused",
        lambda: server.process.send_signal(signal.SIGSTOP),
        lambda: server.process.send_signal(signal.SIGCONT),
    )
    client = redis.Redis(port=server.port)
    for name, what in (("flushed", _flush), ("wrong bytes", _spoil)):
        stop = threading.Event()
        thread = threading.Thread(target=what, args=(client, stop))

        def end(thread: threading.Thread = thread, stop: threading.Event = stop) -> None:
            stop.set()
            thread.join()

        during(name, thread.start, end)
    client.close()


def _flush(client: redis.Redis, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        client.flushall()


def _spoil(client: redis.Redis, stop: threading.Event) -> None:
    draw = random.Random(1)
    while not stop.wait(0.2):
        names = list(client.scan_iter(count=1_000))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.set(name, draw.randbytes(16))
        pipeline.execute()
