"""Memory under full load: after ten minutes, is it what it was after one?"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serving import machine, registry
from benchmarks.serving.generator import LoadGenerator
from benchmarks.serving.limits import MAX_MEMORY_GROWTH
from benchmarks.serving.machine import say
from benchmarks.serving.results import dumps
from benchmarks.serving.system import Bench, Server
from benchmarks.serving.workloads import workload

_MINUTES, _FIRST_MINUTE = 10.0, 1.0
_SAMPLES_PER_MINUTE = 4
_LOAD = "20x16"


def run(bench: Bench, systems: Sequence[str], *, quick: bool) -> bool:
    """Load each system for ten minutes (quick: two, and the first is over after twelve seconds); writes one JSON.

    Returns:
        Whether ours stayed within the limit.
    """
    scale = 0.2 if quick else 1.0
    found: dict[str, Any] = {}
    for name in systems:
        server = Server(registry.launch(name, bench), f"soak-{bench.shape}-{name}")
        try:
            server.wait_until_ready()
            found[name] = _soak(bench, server, scale)
        finally:
            server.stop()
        say(f"soak {name}: {found[name]['growth']:.3f} times the memory after {_MINUTES * scale:g} minutes")
    out = (machine.SCRATCH if quick else machine.RESULTS) / f"serving-soak-{bench.shape}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    header = machine.describe(sys.argv[1:]) | {"quick": quick}
    content = {"run": header, "shape": bench.shape, "workload": _LOAD, "limit": MAX_MEMORY_GROWTH, "systems": found}
    Path(out).write_text(dumps(content) + "\n", encoding="utf-8")
    say(f"wrote {out}")
    return all(one["growth"] <= MAX_MEMORY_GROWTH for name, one in found.items() if registry.is_ours(name))


def _soak(bench: Bench, server: Server, scale: float) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    over = threading.Event()
    started_s = time.monotonic()

    def watch() -> None:
        due_s = _FIRST_MINUTE * scale * 60
        while not over.wait(max(0.0, started_s + due_s - time.monotonic())):
            samples.append({"minute": (time.monotonic() - started_s) / 60, **server.memory_mib()})
            due_s += 60 / _SAMPLES_PER_MINUTE * scale

    watcher = threading.Thread(target=watch)
    load = replace(workload(_LOAD, bench.shape), seconds=_MINUTES * scale * 60 + 5)
    with LoadGenerator() as generator:
        watcher.start()
        try:
            # Nothing made ahead: ten minutes of documents would be hundreds of megabytes in the client.
            result = generator.run(server.url, server.launch.protocol, load, "soak", max_pairs_per_s=0)
        finally:
            over.set()
            watcher.join()
    return {
        "growth": samples[-1]["pss"] / samples[0]["pss"],
        "pairs_per_s": result["pairs"] / result["elapsed_s"],
        "failures": result["failures"],
        "minute": [round(one["minute"], 2) for one in samples],
        "rss_mib": [round(one["rss"]) for one in samples],
        "pss_mib": [round(one["pss"]) for one in samples],
    }
