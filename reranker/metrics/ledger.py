"""What all processes have counted, living and dead ones, and its sums. Pure.

Counters of one process only rise, so two copies of its page are put together by taking the larger number of each cell:
pages may come late, twice, and by several ways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from reranker.metrics.book import Page, cell
from reranker.metrics.kinds import Gauge, Metric, label_sets

_FRESH_S = 30.0
"""A process that was not heard of for so long is taken for dead. Pages of living ones come every two seconds or so."""


class Ledger:
    """One page for each process there ever was. A dead one takes as many numbers as it had that were not 0."""

    def __init__(self, metrics: Sequence[Metric], clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            metrics: To be summed.
            clock: Seconds; for tests.
        """
        gauges = [metric for metric in metrics if isinstance(metric, Gauge)]
        self._gauges = {cell(gauge, labels): gauge for gauge in gauges for labels in label_sets(gauge)}
        self._clock = clock
        self._pages: dict[str, Page] = {}
        self._heard_s: dict[str, float] = {}

    def __len__(self) -> int:
        """Processes there ever were."""
        return len(self._pages)

    def take(self, pages: Iterable[Page]) -> None:
        """Put pages together with those that are here."""
        for page in pages:
            known = self._pages.get(page.source)
            cells = page.cells if known is None else self._both(known.cells, page.cells)
            self._pages[page.source] = Page(page.source, cells, page.alive)
            self._heard_s[page.source] = self._clock()

    def pages(self) -> list[Page]:
        """All of them; a process that was not heard of for long counts as dead."""
        fresh_s = self._clock() - _FRESH_S
        return [replace(one, alive=one.alive and self._heard_s[one.source] >= fresh_s) for one in self._pages.values()]

    def totals(self) -> dict[str, float]:
        """Every number of all processes together, by cell, without those that are 0."""
        totals: dict[str, float] = {}
        for page in self.pages():
            for name, value in page.cells.items():
                gauge = self._gauges.get(name)
                if gauge is not None and not page.alive:
                    continue  # what a dead one held, it holds no longer
                if gauge is not None and gauge.across == "max":
                    totals[name] = max(totals.get(name, value), value)
                else:
                    totals[name] = totals.get(name, 0.0) + value
        return totals

    def _both(self, known: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        """The larger of each number; of gauges the new one."""
        both = {name: value for name, value in known.items() if name not in self._gauges}
        for name, value in new.items():
            both[name] = value if name in self._gauges else max(value, both.get(name, value))
        return both
