"""What scoring took: seconds by stage, tokens, and how long the engine had work. One for each engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spent:
    """What one partition took."""

    read_s: float = 0.0
    """In reading rows."""
    render_s: float = 0.0
    """In making prompts."""
    write_s: float = 0.0
    """In writing its files."""
    engine_s: float = 0.0
    """In which the engine had some of its pairs; beside the others, and beside other partitions'."""
    pairs: int = 0
    """Prompts scored: rows, and windows of long documents."""
    prompt_tokens: int = 0
    """Of all prompts."""
    work_tokens: int = 0
    """Of those what is left to compute when pairs of the same query share their head."""


@dataclass(slots=True)
class Busy:
    """Measures how long something was at work, whatever ran in it side by side. For many threads."""

    seconds: float = 0.0
    _running: int = 0
    _since_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block, once, however many blocks there are at a time."""
        with self._lock:
            if not self._running:
                self._since_s = time.monotonic()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.seconds += time.monotonic() - self._since_s

    @property
    def total_s(self) -> float:
        """Until now."""
        with self._lock:
            return self.seconds + (time.monotonic() - self._since_s if self._running else 0.0)
