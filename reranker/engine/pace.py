"""How fast an engine is: work done per second of work, lately. Pure: it is told the durations."""

from __future__ import annotations

import math

_MEMORY_S = 5.0
"""Working seconds after which a measurement counts a third: long enough to smooth over steps, short enough to follow
a change from small lists to full batches."""


class Pace:
    """Tokens per second, over the time the engine was busy; idle time does not count."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._tokens = 0.0
        self._busy_s = 0.0

    def record(self, tokens: int, busy_s: float) -> None:
        """Note that so many tokens took so long."""
        kept = math.exp(-busy_s / _MEMORY_S)
        self._tokens = self._tokens * kept + tokens
        self._busy_s = self._busy_s * kept + busy_s

    @property
    def tokens_per_s(self) -> float | None:
        """None: nothing was measured yet."""
        return self._tokens / self._busy_s if self._tokens and self._busy_s else None
