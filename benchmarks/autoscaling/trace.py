"""The trace: a load that rises, bursts and falls, and lists whose moments are drawn from it."""

from __future__ import annotations

import itertools
import random

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
