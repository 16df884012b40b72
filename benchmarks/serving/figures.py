"""From the raw rounds to medians, spreads and ratios, and whether they are within their limits. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.results import Check, short
from benchmarks.serving.systems import OURS, PEER

Record = dict[str, Any]
"""One system's result of one workload in one round, as JSON."""
MAX_LATENCIES = 400
"""Latencies kept per record: all, or where there are more, so many evenly spread over their order."""
MAX_MEMORY_GROWTH = 1.05


def record(
    system: str, number: int, workload: str, load: dict[str, Any], cpu_s: dict[str, float], others_cores: float
) -> Record:
    """Make a record: of what the load generator said, and processor seconds by role and cores of others meanwhile."""
    rate = load["pairs"] / load["elapsed_s"]
    tokens = load["tokens_per_pair"]
    return {
        "round": number,
        "system": system,
        "workload": workload,
        "pairs_per_s": short(rate),
        "tokens_per_s": None if not tokens else short(rate * tokens),
        **{key: load[key] for key in ("pairs", "refused", "failures", "first_failure", "made_late")},
        **{key: short(load[key] or 0.0) for key in ("elapsed_s", "tokens_per_pair", "sent_late_s", "client_cpu_s")},
        "cpu_s": {role: short(seconds) for role, seconds in sorted(cpu_s.items())},
        "others_cores": short(others_cores),
        "cpu_ms_per_pair": short(sum(cpu_s.values()) / max(1, load["pairs"]) * 1e3),
        "latency_ms": {size: _latencies(seconds) for size, seconds in load["latencies_s"].items()},
    }


def _latencies(seconds: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(one * 1e3 for one in seconds)
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), MAX_LATENCIES)).round().astype(int)
    return {"n": len(ordered), **_tail(ordered), "sorted": [short(ordered[place]) for place in places]}


def _tail(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.percentile(np.asarray(values), [50, 90, 99, 100])
    return dict(zip(("p50", "p90", "p99", "max"), (short(float(one)) for one in found), strict=True))


def summary(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """By workload, then by system: medians of the rounds with their extremes, and percentiles of all latencies.

    Latencies of all rounds are pooled: the p99 of a few dozen lists in a round is only its slowest one.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for one in records:
        groups.setdefault(one["workload"], {}).setdefault(one["system"], []).append(one)
    return {
        workload: {system: _summarize(rounds) for system, rounds in systems.items()}
        for workload, systems in groups.items()
    }


def _summarize(rounds: Sequence[Record]) -> dict[str, Any]:
    sizes = sorted({size for one in rounds for size in one["latency_ms"]}, key=int)
    return {
        "rounds": len(rounds),
        "pairs_per_s": _middle([one["pairs_per_s"] for one in rounds]),
        "tokens_per_s": _middle([one["tokens_per_s"] for one in rounds if one["tokens_per_s"]]),
        "cpu_ms_per_pair": _middle([one["cpu_ms_per_pair"] for one in rounds]),
        "gpu_busy": _middle([one["gpu_busy"] for one in rounds if one.get("gpu_busy") is not None]),
        "refused": sum(one["refused"] for one in rounds),
        "failures": sum(one["failures"] for one in rounds),
        "latency_ms": {
            size: _pooled([one["latency_ms"][size] for one in rounds if size in one["latency_ms"]]) for size in sizes
        },
    }


def _pooled(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n": sum(one["n"] for one in rounds),
        "p50": _middle([one["p50"] for one in rounds if "p50" in one]),
        "pooled": _tail([value for one in rounds for value in one["sorted"]]),
    }


def _middle(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": short(statistics.median(values)), "min": min(values), "max": max(values)}


def ratios(found: dict[str, dict[str, Any]], system: str, other: str) -> dict[str, dict[str, float]]:
    """What `system` has of what `other` has, by workload, where both were measured."""
    result = {}
    for workload, systems in found.items():
        if system not in systems or other not in systems:
            continue
        a, b = systems[system], systems[other]
        ratio = {
            key: short(a[key]["median"] / b[key]["median"])
            for key in ("pairs_per_s", "cpu_ms_per_pair")
            if b[key]["median"]
        }
        for size in a["latency_ms"].keys() & b["latency_ms"].keys():
            mine, theirs = a["latency_ms"][size], b["latency_ms"][size]
            if mine["n"] and theirs["n"]:
                ratio[f"p50_of_{size}"] = short(mine["p50"]["median"] / theirs["p50"]["median"])
                ratio[f"p99_of_{size}"] = short(mine["pooled"]["p99"] / theirs["pooled"]["p99"])
        result[workload] = dict(sorted(ratio.items()))
    return result


_THROUGHPUT = {"nano": (2.0, 2.6), "small": (1.3, 1.4)}
"""What is asked of ours beside the peer at 16 x 20 and at 1 x 1,000; of other shapes nothing."""


def limits(shape: str, found: dict[str, dict[str, Any]], ratio_of: dict[str, dict[str, float]]) -> list[Check]:
    """Judge a shape by `summary` and by the `ratios` of ours to the peer's."""

    def limit(number: int, what: str, where: tuple[str, str], relation: Any, bound: float) -> Check:
        figure = ratio_of.get(where[0], {}).get(where[1])
        return Check(f"{shape}: {what}, ours / {PEER}", figure, relation, bound, number=number)

    rate = "pairs_per_s"
    time, processor = "seconds per pair, 10,000 documents / 10", "processor time per pair, 10,000 documents / 10"
    checks = [
        limit(3, "single pair, p50", ("1x1", "p50_of_1"), "<=", 1),
        Check(f"{shape}: {time}", _growth(found, lambda size, one: _seconds(size, one)), "<=", 1.1, number=5),
        Check(f"{shape}: {processor}", _growth(found, lambda _, one: one.get("cpu_ms_per_pair")), "<=", 1.1, number=5),
    ]
    if (bounds := _THROUGHPUT.get(shape)) is not None:
        checks += [
            limit(1, "pairs/s, 16 x 20", ("20x16", rate), ">=", bounds[0]),
            limit(1, "pairs/s, 1 x 1,000", ("1000x1", rate), ">=", bounds[1]),
            limit(2, "long documents, pairs/s", ("long", rate), ">=", 1),
            limit(2, "long documents, p99", ("long", "p99_of_10"), "<=", 1),
            limit(2, "real text, pairs/s", ("text", rate), ">=", 1),
            limit(2, "real text, p99", ("text", "p99_of_20"), "<=", 1),
            limit(4, "mixed load, p99 of the lists of 10", ("mixed", "p99_of_10"), "<=", 0.15),
            limit(4, "mixed load, pairs/s", ("mixed", rate), ">=", 1),
        ]
    return sorted(checks, key=lambda one: one.number)


def _growth(found: dict[str, dict[str, Any]], cost: Any) -> float | None:
    """What a pair costs in a list of 10,000 against one in a list of 10, one list at a time, ours."""
    short_list, long_list = (cost(size, found.get(f"{size}x1", {}).get(OURS, {})) for size in (10, 10_000))
    return float(long_list["median"] / short_list["median"]) if short_list and long_list else None


def _seconds(size: int, one: dict[str, Any]) -> dict[str, float] | None:
    p50 = one.get("latency_ms", {}).get(str(size), {}).get("p50")
    return {"median": p50["median"] / size} if p50 else None
