"""Run the fleet simulation: python -m benchmarks.fleet [--only placement uneven scaling burst failures router].

One process, no cluster, three quarters of an hour; writes benchmarks/results/fleet.json and prints its tables.
"""

import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import autoscaling as trace
from benchmarks import results
from benchmarks.fleet.simulation import SPEED, Fleet, Strategy
from benchmarks.results import say
from deployments.autoscaling import ReplicaScaling
from reranker.config import PlanningConfig, ScalingConfig
from reranker.ranking.placement import Placement, Route
from reranker.ranking.planning import most_shards, plan

RESULTS = results.RESULTS / "fleet.json"
SIZES, SHARES = (10, 100, 1_000), (0.70, 0.25, 0.05)
"""Documents of a list, and how many lists are of which size."""
MEAN_TOKENS = 200
LATE_S = 5.0
"""Of queue the service refuses lists; there is no refusal here, so this is what it would refuse, about."""
PRICE_PER_HOUR = 0.80
"""Dollars for an L4. An assumption; cost goes with it in proportion."""
STRATEGIES = {
    "ours": Strategy(),
    "ours, first come first served": Strategy(fair=False),
    **{f"split, {one}": Strategy(one) for one in ("two choices", "round robin", "random")},
    **{
        f"whole lists, {one}": Strategy(one, split=False, fair=False)
        for one in ("two choices", "round robin", "random")
    },
}
Scale = Callable[[Fleet], None]


def traffic(
    fleet: Fleet,
    rate: Callable[[float], float],
    until_s: float,
    seed: int,
    sizes: Sequence[tuple[int, float]] = tuple(zip(SIZES, SHARES, strict=True)),
) -> None:
    """Send lists at random moments: so many engines' worth of work at a moment, of these sizes with their shares."""
    draw = random.Random(seed)
    tokens = MEAN_TOKENS * sum(size * share for size, share in sizes)
    numbers, shares = zip(*sizes, strict=True)

    def one() -> None:
        size = draw.choices(numbers, shares)[0]
        fleet.send([max(20, int(draw.lognormvariate(math.log(MEAN_TOKENS) - 0.18, 0.6))) for _ in range(size)])
        after()

    def after() -> None:
        moment_s = fleet.now_s + draw.expovariate(max(1e-6, rate(fleet.now_s)) * SPEED / tokens)
        if moment_s < until_s:
            fleet.at(moment_s, one)

    after()


def latencies(fleet: Fleet, warm_s: float = 0.0) -> dict[str, Any]:  # Any: JSON
    """p50 and p99 by list size, in ms, of the lists that came after the start."""
    found: dict[str, Any] = {}
    for size in SIZES:
        took = [
            (one.done_s - one.arrived_s) * 1e3
            for one in fleet.done
            if one.done_s is not None and len(one.pair_tokens) == size and one.arrived_s >= warm_s
        ]
        if len(took) > 1:
            cuts = statistics.quantiles(took, n=100)
            found[str(size)] = {"lists": len(took), "p50_ms": round(cuts[49]), "p99_ms": round(cuts[98])}
    late = sum(one.done_s is not None and one.done_s - one.arrived_s > LATE_S for one in fleet.done)
    pairs = sum(len(one.pair_tokens) for one in fleet.done)
    hours = fleet.replica_s / 3_600
    return {
        "by_size": found,
        "late_share": round(late / len(fleet.done), 4),
        "gpu_hours": round(hours, 3),
        "dollars_per_million_pairs": round(hours * PRICE_PER_HOUR / pairs * 1e6, 2) if pairs else None,
    }


def _by_size(fleet: Fleet, load: float, seconds: float, end_s: float) -> dict[str, Any]:
    """Latencies at a steady load."""
    traffic(fleet, lambda _: load, seconds, seed=3)
    fleet.run(end_s)
    found: dict[str, Any] = latencies(fleet, warm_s=seconds * 0.1)["by_size"]
    return found


def placement() -> dict[str, Any]:
    """The same lists at 70 % load, by strategy and number of replicas."""
    found: dict[str, Any] = {}
    for replicas, seconds in ((1, 600.0), (8, 300.0), (64, 60.0), (256, 10.0), (1_000, 1.5)):
        found[str(replicas)] = {}
        for name, strategy in STRATEGIES.items():
            started_s = time.perf_counter()
            fleet = Fleet(replicas, strategy, ingresses=max(2, replicas // 16))
            sizes = found[str(replicas)][name] = _by_size(fleet, 0.7 * replicas, seconds, seconds * 3)
            said = {size: (one["p50_ms"], one["p99_ms"]) for size, one in sizes.items()}
            say(f"{replicas} replicas, {name}: {said} ({time.perf_counter() - started_s:.0f} s)")
    return found


def uneven() -> dict[str, Any]:
    """The same, where of 256 replicas one in eight has half the speed: another GPU, or a neighbour on it."""
    found: dict[str, Any] = {}
    share, seconds = 0.125, 10.0
    for name in ("ours", "split, two choices", "split, round robin", "split, random"):
        fleet = Fleet(256, STRATEGIES[name], ingresses=16, slow_share=share)
        found[name] = _by_size(fleet, 0.7 * 256 * (1 - share / 2), seconds, seconds * 5)
        say(f"{name}: {found[name]}")
    return found


def _day(now_s: float) -> float:
    """A day in 30 minutes: from 2 engines' worth at night to 14 by day, and two bursts of three times as much."""
    curve = 8 - 6 * math.cos(2 * math.pi * now_s / 1_800)
    return curve * (3 if 500 <= now_s < 540 or 1_300 <= now_s < 1_340 else 1)


def _ours(keep_s: float, bounds: tuple[int, int], load_s: float) -> Scale:
    config = ScalingConfig(target_queue_s=1, keep_s=keep_s)
    return lambda fleet: fleet.autoscale(ReplicaScaling(config), bounds, load_s)


def _rays(target: float, bounds: tuple[int, int], load_s: float, **delays: Any) -> Scale:
    return lambda fleet: fleet.autoscale_by_count(target, bounds, load_s, **delays)


def scaling() -> dict[str, Any]:
    """A day with bursts: our policy, Ray's rule, and fixed numbers of replicas; a model loads for 60 s."""
    until_s, room = 1_800.0, ((2, 64), 60.0)
    found: dict[str, Any] = {}
    ways: dict[str, tuple[int, Scale | None]] = {
        **{f"ours, keep_s {keep_s}": (4, _ours(keep_s, *room)) for keep_s in (180, 60)},
        **{f"Ray's rule, {shards} shards": (4, _rays(shards, *room)) for shards in (2, 4, 8)},
        **{f"{replicas} replicas": (replicas, None) for replicas in (16, 32)},
    }
    for name, (replicas, scale) in ways.items():
        fleet = Fleet(replicas, Strategy(), ingresses=2)
        traffic(fleet, _day, until_s, seed=5)
        if scale is not None:
            scale(fleet)
        fleet.run(until_s)
        found[name] = latencies(fleet)
        say(f"{name}: {found[name]}")
    return found


def _engines(fleet: Fleet, until_s: float) -> list[tuple[float, int]]:
    """How many replicas there are, noted twice a second from now on."""
    found: list[tuple[float, int]] = []

    def note() -> None:
        found.append((fleet.now_s, len(fleet.live)))
        if fleet.now_s < until_s:
            fleet.at(fleet.now_s + 0.5, note)

    note()
    return found


def burst() -> dict[str, Any]:
    """The trace that benchmarks/autoscaling plays on a live service, drawn many times; a replica starts in 9 s."""
    until_s, room, draws = float(trace.TRACE[-1][0]), ((1, 8), 9.0), 32
    quick: dict[str, Any] = {"look_s": 5, "up_s": 0, "down_s": 30}
    ways = {"ours": _ours(30, *room), "Ray's rule, its own delays, 2 shards": _rays(2, *room)} | {
        f"Ray's rule, {target} shards": _rays(target, *room, **quick) for target in (0.5, 0.75, 1, 1.25, 1.5, 2)
    }
    found: dict[str, Any] = {}
    for kind, sizes in trace.SIZES.items():
        for name, scale in ways.items():
            runs: list[dict[str, Any]] = []
            replica_s = []
            for seed in range(draws):
                fleet = Fleet(1, Strategy(), ingresses=1, seed=seed)
                traffic(fleet, trace.engines_wanted, until_s, seed, sizes)
                counts = _engines(fleet, until_s)
                scale(fleet)
                fleet.run(until_s)
                replica_s.append(fleet.replica_s)
                fleet.run(2 * until_s)  # what waits still
                answers = [
                    {"sent_s": one.arrived_s, "took_s": one.done_s - one.arrived_s, "status": 200}
                    for one in fleet.done
                    if one.done_s is not None
                ]
                runs.append(trace.summary(answers, counts))
            # Of the draws in which the burst made it scale up.
            after = [one for run in runs if (one := run["seconds_in_target_after_it"]) is not None]
            found[f"{name}, {kind} lists"] = {
                "p95_s": round(statistics.mean(run["p95_s"] for run in runs), 2),
                "replica_seconds": round(statistics.mean(replica_s)),
                "replica_seconds_standard_error": round(statistics.stdev(replica_s) / math.sqrt(draws), 1),
                "seconds_in_target": round(statistics.mean(run["seconds_in_target"] for run in runs), 3),
                "seconds_in_target_after_the_first_scale_up": round(statistics.mean(after), 3) if after else None,
                "draws_with_95_percent_of_them": f"{sum(one >= 0.95 for one in after)} of {len(after)}",
            }
            say(f"{name}, {kind} lists: {found[f'{name}, {kind} lists']}")
    return found


def failures() -> dict[str, Any]:
    """Twenty-two replicas; each 10 s one dies, and its successor loads for 60 s, so that sixteen are left, at 60 %."""
    found: dict[str, Any] = {}
    for name, every_s in (("none dies", math.inf), ("one dies each 10 s", 10.0)):
        fleet = Fleet(22, Strategy())
        traffic(fleet, lambda _: 9.6, 120, seed=9)
        moment_s = every_s
        while moment_s < 120:
            fleet.at(moment_s, fleet.kill_one)
            fleet.at(moment_s, lambda fleet=fleet: fleet.start(60.0))  # type: ignore[misc]
            moment_s += every_s
        fleet.run(200)
        found[name] = latencies(fleet)["by_size"]
        say(f"{name}: {found[name]}")
    return found


def router() -> dict[str, Any]:
    """Real time, not simulated: what planning and placing one list cost an ingress, by the number of replicas."""
    found: dict[str, Any] = {}
    pairs = [MEAN_TOKENS] * 100
    for replicas in (10, 100, 1_000):
        names = [f"replica-{number}" for number in range(replicas)]
        placement = Placement(seed=1)
        placement.set_live(names)
        took_ms = []
        for _ in range(30):
            started_s = time.perf_counter()
            shortlist = placement.shortlist(most_shards(pairs, PlanningConfig()))
            shards = plan(pairs, shortlist.loads, PlanningConfig())
            route_of = Counter[str]()
            for indices in shards:
                with placement.send(Route(route_of, shortlist.replicas), len(indices) * MEAN_TOKENS):
                    pass
            took_ms.append((time.perf_counter() - started_s) * 1e3)
        found[str(replicas)] = {"ms_per_list": round(statistics.median(took_ms), 2), "shards": len(shards)}
        say(f"{replicas} replicas: {found[str(replicas)]}")
    return found


EXPERIMENTS = {one.__name__: one for one in (placement, uneven, scaling, burst, failures, router)}


def main() -> None:
    """Run experiments, and write what they found."""
    parser = results.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    for name in parser.parse_args().only:
        found = EXPERIMENTS[name]()
        results.write(RESULTS, results.read(RESULTS) | {name: found})


if __name__ == "__main__":
    main()
