"""What a metric is: its name, unit, labels with every value they can have, bounds. And the seam to what records it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

OTHER = "other"
"""The value of a label for whatever its list does not have; only where the list has this one."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and the closed list of its values: no client can make a new series."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """A number that only rises; its name ends in `_total`."""

    name: str
    description: str
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    """A number that is what it is now."""

    name: str
    description: str
    labels: tuple[Label, ...] = ()
    across: Literal["sum", "max"] = "sum"
    """What the numbers of several replicas make together."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often a number was up to each of some bounds, and the sum of all."""

    name: str
    description: str
    bounds: tuple[float, ...]
    """Rising, above 0; what is above the last is counted as well."""
    labels: tuple[Label, ...] = ()


Metric: TypeAlias = Counter | Gauge | Histogram


def label_sets(metric: Metric) -> Iterator[tuple[str, ...]]:
    """Every combination of its labels' values; one empty one where it has no labels."""
    return itertools.product(*(label.values for label in metric.labels))


def starts_at_zero(metric: Metric) -> bool:
    """Whether series are shown before anything was counted; of the many of two labels most never are anything else."""
    return len(metric.labels) < 2


class Recorder(Protocol):
    """Records metrics somewhere. Labels are given by their values, in the order of the declaration."""

    def count(self, counter: Counter, amount: float, *labels: str) -> None:
        """Add to a counter."""
        ...

    def set(self, gauge: Gauge, value: float, *labels: str) -> None:
        """Say what a number is now."""
        ...

    def observe(self, histogram: Histogram, value: float, *labels: str) -> None:
        """Count a value."""
        ...


class NoRecorder:
    """Records nothing: `observability.metrics: false`."""

    def count(self, counter: Counter, amount: float, *labels: str) -> None:
        """Leave it."""

    def set(self, gauge: Gauge, value: float, *labels: str) -> None:
        """Leave it."""

    def observe(self, histogram: Histogram, value: float, *labels: str) -> None:
        """Leave it."""
