"""From the raw rounds to medians, spreads and ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]
"""One system's result of one workload in one round, as JSON."""
MAX_LATENCIES = 400
"""Latencies kept per record: all, or where there are more, so many evenly spread over their order."""


def record(
    system: str, number: int, workload: str, load: dict[str, Any], cpu_s: dict[str, float], others_cores: float
) -> Record:
    """Make a record of what the load generator found.

    Args:
        system: Which.
        number: Of the round, from 1.
        workload: Which.
        load: What `benchmarks.serving.load` said.
        cpu_s: Processor seconds that the system used meanwhile, by role.
        others_cores: Cores that processes besides the system and the load generator used meanwhile.
    """
    rate = load["pairs"] / load["elapsed_s"]
    tokens = load["tokens_per_pair"]
    return {
        "round": number,
        "system": system,
        "workload": workload,
        "pairs_per_s": _short(rate),
        "tokens_per_s": None if not tokens else _short(rate * tokens),
        **{key: load[key] for key in ("pairs", "refused", "failures", "first_failure", "made_late")},
        **{key: _short(load[key] or 0.0) for key in ("elapsed_s", "tokens_per_pair", "sent_late_s", "client_cpu_s")},
        "cpu_s": {role: _short(seconds) for role, seconds in sorted(cpu_s.items())},
        "others_cores": _short(others_cores),
        "cpu_ms_per_pair": _short(sum(cpu_s.values()) / max(1, load["pairs"]) * 1e3),
        "latency_ms": {size: _latencies(seconds) for size, seconds in load["latencies_s"].items()},
    }


def _latencies(seconds: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(one * 1e3 for one in seconds)
    if len(ordered) > MAX_LATENCIES:
        places = np.linspace(0, len(ordered) - 1, MAX_LATENCIES).round().astype(int)
        kept = [ordered[place] for place in places]
    else:
        kept = ordered
    return {"n": len(ordered), **percentiles(ordered), "sorted": [_short(one) for one in kept]}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the tail, linear between neighbours."""
    if not values:
        return {}
    found = np.percentile(np.asarray(values), [50, 90, 99, 100])
    return dict(zip(("p50", "p90", "p99", "max"), (_short(float(one)) for one in found), strict=True))


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
    every = [value for one in rounds for value in one["sorted"]]
    return {
        "n": sum(one["n"] for one in rounds),
        "p50": _middle([one["p50"] for one in rounds if "p50" in one]),
        "pooled": percentiles(every),
    }


def _middle(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": _short(statistics.median(values)), "min": min(values), "max": max(values)}


def ratios(found: dict[str, dict[str, Any]], system: str, other: str) -> dict[str, dict[str, float]]:
    """What `system` has of what `other` has, by workload, where both were measured."""
    result = {}
    for workload, systems in found.items():
        if system not in systems or other not in systems:
            continue
        a, b = systems[system], systems[other]
        ratio = {"pairs_per_s": _short(a["pairs_per_s"]["median"] / b["pairs_per_s"]["median"])}
        for size in a["latency_ms"].keys() & b["latency_ms"].keys():
            mine, theirs = a["latency_ms"][size], b["latency_ms"][size]
            if mine["n"] and theirs["n"]:
                ratio[f"p50_of_{size}"] = _short(mine["p50"]["median"] / theirs["p50"]["median"])
                ratio[f"p99_of_{size}"] = _short(mine["pooled"]["p99"] / theirs["pooled"]["p99"])
        result[workload] = dict(sorted(ratio.items()))
    return result


def _short(number: float) -> float:
    return float(f"{number:.4g}")
