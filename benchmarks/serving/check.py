"""For CI: where serving is the cost, ours must not be slower than the engine's own server. Loose, so not noise."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.serving import figures, machine, models
from benchmarks.serving.machine import say
from benchmarks.serving.registry import OURS, PEER
from benchmarks.serving.rounds import Rounds
from benchmarks.serving.system import Bench
from benchmarks.serving.workloads import workloads

SHAPE = "nano"
PEER_VARIANT = f"{PEER}:eager"
"""Not compiled: it starts sooner, and is as fast on one layer."""
MIN_THROUGHPUT_RATIO, MAX_SINGLE_RATIO = 1.0, 4.0
_SECONDS = 3.0


def run() -> int:
    """Measure two workloads, one system after the other; exit status 1 if a ratio is outside its limit."""
    bench = Bench(SHAPE, models.checkpoint(SHAPE), bool(machine.gpus()), models.dtype(SHAPE))
    chosen = [replace(one, seconds=_SECONDS) for one in workloads(("1x1", "20x16"), SHAPE)]
    with Rounds(bench, [OURS, PEER_VARIANT]) as rounds:
        found = figures.summary(rounds.run(chosen, 1, lambda _: None))
    rates = {system: one["pairs_per_s"]["median"] for system, one in found["20x16"].items()}
    times = {system: one["latency_ms"]["1"]["p50"]["median"] for system, one in found["1x1"].items()}
    throughput, single = rates[OURS] / rates[PEER_VARIANT], times[OURS] / times[PEER_VARIANT]
    say(f"pairs/s at 16 x 20: {throughput:.2f} x {PEER}'s, at least {MIN_THROUGHPUT_RATIO} is asked")
    say(f"p50 of a single pair: {single:.2f} x {PEER}'s, at most {MAX_SINGLE_RATIO} is asked")
    return 0 if throughput >= MIN_THROUGHPUT_RATIO and single <= MAX_SINGLE_RATIO else 1
