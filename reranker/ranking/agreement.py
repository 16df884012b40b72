"""What two rankings of one list agree in: the figures, their metrics, and the sums that a report is made of.

A figure is of one list; a report says its mean over many, with a 95 % interval. Sums of several processes can be added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from prometheus_client import Counter, Histogram

TOP = 10
SIZES = ("2-10", "11-100", ">100")
"""Of lists, in documents."""
DROPPED = ("load", "others", "too_large", "partial", "no_engine", "time", "drain", "error")
"""Why a list that was drawn is not compared: live work would have waited; as many shadows as may were under way; it has
more text than a shadow may hold; one of the two rankings lacks documents, or a cascade's second stage; the other model
has no engine; it took longer than `limits.timeout_s`; the ingress ends; anything else, which the log tells."""
_Z = 1.959964  # of the normal distribution's middle 95 %

LISTS = Counter("reranker_shadow_lists_total", "Lists that a shadow has ranked too.", ("of", "with", "size"))
FLIPS = Counter(
    "reranker_shadow_flips_total", "Those of them with another document in the first place.", ("of", "with", "size")
)
OVERLAP = Histogram(
    "reranker_shadow_overlap_ratio",
    "Share of the first ten documents that both have there; of lists with more than ten.",
    ("of", "with"),
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
)
CORRELATION = Histogram(
    "reranker_shadow_rank_correlation",
    "Spearman's correlation of all documents' places: 1 is the same order, -1 the reverse.",
    ("of", "with", "size"),
    buckets=(-0.5, 0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
)
DROPPED_LISTS = Counter(
    "reranker_shadow_dropped_total",
    f"Lists that were drawn and not compared: {', '.join(DROPPED)} (docs/several-models.md).",
    ("of", "with", "reason"),
)

Sums: TypeAlias = dict[str, dict[str, float]]
"""By the size of lists, and under "dropped" by reason: whatever can be added up."""


class Agreement(NamedTuple):
    """Two rankings of one list."""

    size: str
    flipped: bool
    """Whether another document is first."""
    correlation: float
    overlap: float | None
    """None: the list has no more than ten documents, which all are in the first ten."""


def compare(first: Sequence[int], second: Sequence[int]) -> Agreement:
    """Compare two orders of the same two or more documents, each by their indices, best first."""
    count = len(first)
    places = np.empty((2, count), dtype=np.int64)
    for row, order in enumerate((first, second)):
        places[row, np.asarray(order)] = np.arange(count)
    # Spearman's formula for ranks without ties: equal scores have an order too, that of their indices.
    squares = float(((places[0] - places[1]) ** 2).sum())
    correlation = 1 - 6 * squares / (count * (count**2 - 1))
    overlap = len({*first[:TOP]} & {*second[:TOP]}) / TOP if count > TOP else None
    return Agreement(SIZES[(count > 10) + (count > 100)], first[0] != second[0], correlation, overlap)


def nothing() -> Sums:
    kinds = ("lists", "flips", "correlation", "correlation_squares", "overlap_lists", "overlap", "overlap_squares")
    return {size: dict.fromkeys(kinds, 0.0) for size in SIZES} | {"dropped": dict.fromkeys(DROPPED, 0.0)}


def add(sums: Sums, one: Agreement) -> None:
    of_size = sums[one.size]
    more = {"lists": 1.0, "flips": float(one.flipped), "correlation": one.correlation}
    more["correlation_squares"] = one.correlation**2
    if one.overlap is not None:
        more |= {"overlap_lists": 1.0, "overlap": one.overlap, "overlap_squares": one.overlap**2}
    for kind, value in more.items():
        of_size[kind] += value


def total(parts: Iterable[Mapping[str, Mapping[str, float]]]) -> Sums:
    """Add up the sums of several processes."""
    sums = nothing()
    for part in parts:
        for group, values in sums.items():
            for kind in values:
                values[kind] += part[group][kind]
    return sums


def figures(sums: Sums) -> dict[str, Any]:  # Any: JSON
    """The report of a shadow: all its lists, and by their size."""
    whole = {kind: sum(sums[size][kind] for size in SIZES) for kind in sums[SIZES[0]]}
    by_size = {size: _of(sums[size]) for size in SIZES}
    dropped = {reason: int(count) for reason, count in sums["dropped"].items() if count}
    return _of(whole) | {"by_size": by_size, "dropped": dropped}


def _of(sums: Mapping[str, float]) -> dict[str, Any]:
    lists, flips = int(sums["lists"]), int(sums["flips"])
    low, high = wilson(flips, lists)
    share = flips / lists if lists else None
    return {
        "lists": lists,
        "first_place_differs": {"lists": flips, "share": _rounded(share), "low": _rounded(low), "high": _rounded(high)},
        "rank_correlation": _mean(lists, sums["correlation"], sums["correlation_squares"], -1.0),
        "overlap_at_10": _mean(int(sums["overlap_lists"]), sums["overlap"], sums["overlap_squares"], 0.0)
        | {"lists": int(sums["overlap_lists"])},
    }


def wilson(hits: int, count: int) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a share; nothing is known of no list."""
    if not count:
        return None, None
    share, z2 = hits / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(count: int, values: float, squares: float, least: float) -> dict[str, float | None]:
    """The mean of figures from `least` to 1, and its 95 % interval by the normal distribution; of one, no interval."""
    if not count:
        return {"mean": None, "low": None, "high": None}
    mean = values / count
    if count == 1:
        return {"mean": _rounded(mean), "low": None, "high": None}
    half = _Z * math.sqrt(max(0.0, squares - count * mean**2) / (count - 1) / count)
    return {"mean": _rounded(mean), "low": _rounded(max(least, mean - half)), "high": _rounded(min(1.0, mean + half))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
