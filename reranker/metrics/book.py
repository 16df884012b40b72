"""The numbers of one process, in a file that outlives it.

The file is mapped into memory, so that adding to a number is adding to a number in memory, and what was added is there
for others even when the process is killed a moment later. Its writer holds a lock on it while it lives.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reranker.metrics.kinds import OTHER, Counter, Gauge, Histogram, Metric, label_sets

SUFFIX = ".book"
_CELL_BYTES = 8
_HEAD_BYTES = 8
"""At the start: the length of the list of cells, which is JSON."""
SUM = "sum"


def cell(metric: Metric, labels: Sequence[str], part: str = "") -> str:
    """Name one number, for all processes.

    Args:
        metric: Whose.
        labels: Their values.
        part: Of a histogram: the number of a bucket, from 0, or `SUM`. A bucket counts what is in no lower one.
    """
    return "|".join((metric.name, *labels, part))


def parts(metric: Metric) -> list[str]:
    """The parts of one series of a metric; see `cell`."""
    if isinstance(metric, Histogram):
        return [*map(str, range(len(metric.bounds) + 1)), SUM]
    return [""]


@dataclass(frozen=True, slots=True)
class Page:
    """A book as it is at one moment: its numbers by cell, without those that are 0.

    Of one process they only rise, but for those of gauges.
    """

    source: str
    """Which process: unique for ever."""
    cells: Mapping[str, float] = field(default_factory=dict)
    alive: bool = True


class Book:
    """A recorder (`reranker.metrics.Recorder`) for one process. To be written on one thread."""

    def __init__(self, path: Path, metrics: Sequence[Metric]) -> None:
        """Open the file, or make it.

        Args:
            path: Where; its name without the suffix is the source. What is there already goes on from there.
            metrics: All that will ever be recorded here.

        Raises:
            BlockingIOError: Another process is writing it.
        """
        names = [
            cell(metric, labels, part) for metric in metrics for labels in label_sets(metric) for part in parts(metric)
        ]
        self.source = path.name.removesuffix(SUFFIX)
        self._first: dict[tuple[Metric, tuple[str, ...]], int] = {}
        at = 0
        for metric in metrics:
            for labels in label_sets(metric):
                self._first[metric, tuple(labels)] = at
                at += len(parts(metric))
        self._file, self._cells = _open(path, names)
        self._places = {name: place for place, name in enumerate(names)}

    def count(self, counter: Counter, amount: float, *labels: str) -> None:
        """Add to a counter."""
        self._cells[self._place(counter, labels)] += amount

    def set(self, gauge: Gauge, value: float, *labels: str) -> None:
        """Say what a number is now."""
        self._cells[self._place(gauge, labels)] = value

    def observe(self, histogram: Histogram, value: float, *labels: str) -> None:
        """Count a value."""
        first = self._place(histogram, labels)
        self._cells[first + bisect.bisect_left(histogram.bounds, value)] += 1
        self._cells[first + len(histogram.bounds) + 1] += value

    def raise_to(self, name: str, value: float) -> None:
        """Set the cell of this name."""
        self._cells[self._places[name]] = value

    def page(self) -> Page:
        """Read it."""
        return Page(self.source, {name: value for name, value in zip(self._places, self._cells, strict=True) if value})

    def close(self) -> None:
        """Write no more; the file stays."""
        self._cells.release()
        os.close(self._file)

    def _place(self, metric: Metric, labels: tuple[str, ...]) -> int:
        place = self._first.get((metric, labels))
        if place is not None:
            return place
        known = zip(labels, metric.labels, strict=True)
        return self._first[metric, tuple(value if value in label.values else OTHER for value, label in known)]


def _open(path: Path, names: Sequence[str]) -> tuple[int, memoryview[float]]:
    listed = json.dumps(names).encode()
    listed += b" " * (-len(listed) % _CELL_BYTES)
    head = len(listed).to_bytes(_HEAD_BYTES, "little") + listed
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    if os.pread(file, len(head), 0) != head:  # new, or of other metrics
        os.ftruncate(file, 0)
        os.pwrite(file, head, 0)
    whole = len(head) + len(names) * _CELL_BYTES
    os.ftruncate(file, whole)
    return file, memoryview(mmap.mmap(file, whole))[len(head) :].cast("d")


def pages(folder: Path, besides: Collection[str] = (), *, dead_only: bool = False) -> Iterator[Page]:
    """Read the books of all processes, living and dead, that write or wrote into a folder.

    Args:
        folder: Where. One that is not there has none.
        besides: Sources to leave out.
        dead_only: Leave out those of living processes.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        source = path.name.removesuffix(SUFFIX)
        if source in besides:
            continue
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:  # ValueError: not all written yet
            alive = _is_locked(file)
            if alive and dead_only:
                continue
            content = memoryview(file.read())
            head = int.from_bytes(content[:_HEAD_BYTES], "little")
            names = json.loads(bytes(content[_HEAD_BYTES : _HEAD_BYTES + head]))
            values = content[_HEAD_BYTES + head :].cast("d")
            yield Page(source, {name: value for name, value in zip(names, values, strict=True) if value}, alive=alive)


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
    except BlockingIOError:
        return True
    return False
