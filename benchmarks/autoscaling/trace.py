"""The trace: a load that rises, bursts and falls, and lists whose moments are drawn from it; what came of a run."""

from __future__ import annotations

import itertools
import random
import statistics
from typing import Any

SPEED = 10_000
"""Tokens per second of one engine."""
TARGET_S = 2.0
"""The latency that 95 of 100 lists are to stay below: a queue of 1 s, and the list's own time."""
WINDOW_S = 5
# (from second, engines that the load keeps busy); between two of them it changes evenly.
TRACE = [(0, 0.4), (60, 0.4), (150, 2.0), (180, 2.0), (180, 5.0), (225, 5.0), (225, 2.0), (285, 0.4), (360, 0.4)]
BURST_S = 180
SIZES = {"equal": ((60, 1.0),), "mixed": ((10, 0.50), (60, 0.35), (150, 0.15))}
"""Documents of a list, and how many of the lists have so many: about the same work a list on average."""


def engines_wanted(second: float) -> float:
    """Engines that the trace keeps busy at a moment."""
    for (start_s, start), (end_s, end) in itertools.pairwise(TRACE):
        if start_s <= second < end_s:
            return start + (end - start) * (second - start_s) / (end_s - start_s)
    return TRACE[-1][1]


def moments(tokens_per_list: float, seed: int) -> list[float]:
    """When lists are sent: a Poisson process of the trace's rate (by thinning)."""
    draw = random.Random(seed)
    most = max(engines for _, engines in TRACE) * SPEED / tokens_per_list
    found, now_s = [], 0.0
    while (now_s := now_s + draw.expovariate(most)) < TRACE[-1][0]:
        if draw.random() < engines_wanted(now_s) * SPEED / tokens_per_list / most:
            found.append(now_s)
    return found


def summary(answers: list[dict[str, float]], counts: list[tuple[float, int]]) -> dict[str, Any]:
    """The figures of a run (Any: JSON).

    Args:
        answers: `sent_s`, `took_s` and `status` of each list.
        counts: Engines' processes at moments.
    """
    seconds = []
    for second in range(WINDOW_S, TRACE[-1][0]):
        late = [
            one["took_s"] if one["status"] == 200 else float("inf")
            for one in answers
            if second - WINDOW_S <= one["sent_s"] < second
        ]
        seconds.append((second, sorted(late)[int(0.95 * len(late))] if late else 0.0))
    before = max((engines for at_s, engines in counts if at_s <= BURST_S), default=1)
    scaled_s = next((at_s for at_s, engines in counts if at_s > BURST_S and engines > before), float("inf"))
    judged = [p95 <= TARGET_S for second, p95 in seconds if second - WINDOW_S >= scaled_s]
    pairs = itertools.pairwise(counts)
    ranked = [one["took_s"] for one in answers if one["status"] == 200]  # a refusal is quick, and no help
    return {
        "lists": len(answers),
        "refused": sum(one["status"] == 429 for one in answers),
        "failed": sum(one["status"] not in (200, 429) for one in answers),
        "p95_s": round(statistics.quantiles(ranked, n=20)[-1], 3),
        "burst_first_scaled_after_s": round(scaled_s - BURST_S, 1) if judged else None,
        "seconds_in_target_after_it": round(statistics.mean(judged), 3) if judged else None,
        "seconds_in_target": round(statistics.mean(p95 <= TARGET_S for _, p95 in seconds), 3),
        "replica_seconds": round(sum((end - start) * engines for (start, engines), (end, _) in pairs), 1),
        "most_replicas": max(engines for _, engines in counts),
    }
