"""What clients may take of a process: of its memory, together and each caller; and of its log."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reranker.errors import CallerMemoryError, MemoryFullError

_CALLERS_SHARE = 0.5
"""Of the limit, for all requests of one caller. One alone may have more."""
_LARGE_SHARE = 0.875
"""Of the limit, for requests larger than `_SMALL_BYTES`: small ones are the last to be refused."""
_SMALL_BYTES = 256 * 1024
_MEMORY_REQUESTS = 8
"""Large requests after which the time that one took is mostly forgotten."""
_LARGE_BYTES, _WORTH_TRIMMING_BYTES = 2**20, 16 * 2**20
_TRIM_AFTER_S, _TRIM_PERIOD_S = 5.0, 60.0
_LOGGERS = (
    "deployments.telemetry",
    "deployments.http.middleware",
    "reranker.ranking.shadow",
    "reranker.transport.server",
    "ray.serve.deployments.ui.app",
    "uvicorn.error",
    "asyncio",
)
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""For a process's environment: an allocator's arena for each thread would keep what the largest body took in it."""


class BytesInHand:
    """Counts what the requests of one process hold, while they are received, parsed and waited for.

    Beyond the limit they are refused. What was used is given back to the system. To be used from one event loop.
    """

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, beside: BytesInHand | None = None
    ) -> None:
        """`beside` counts the other requests of the process."""
        self._limit, self._clock = limit, clock
        self._all = [self] if beside is None else [self, beside]
        self.total = 0
        self._of_caller: defaultdict[str, int] = defaultdict(int)
        self._freed = 0
        """Bytes that large requests have held and given back since memory was trimmed."""
        self._large_s = 1.0
        """Seconds that a large request takes."""
        self._trimming: asyncio.TimerHandle | None = None

    @contextmanager
    def request(self, caller: str) -> Iterator[Hold]:
        """Count a request for as long as the block lasts."""
        hold = Hold(self, caller)
        began_s = self._clock()
        try:
            yield hold
        finally:
            if hold.peak > _SMALL_BYTES:
                self._large_s += (self._clock() - began_s - self._large_s) / _MEMORY_REQUESTS
            self.change(hold, 0)
            if hold.peak > _LARGE_BYTES:
                self._freed += hold.peak
            self._trim_later(_TRIM_AFTER_S if self._freed > _WORTH_TRIMMING_BYTES else _TRIM_PERIOD_S)
            if not self._of_caller[caller]:
                del self._of_caller[caller]

    def change(self, hold: Hold, size: int) -> None:
        """See `Hold.resize`. One alone counts with no more than large ones may have: the rest is for small ones."""
        size = min(size, int(self._limit * _LARGE_SHARE))
        more = size - hold.size
        if more > 0 and size > _SMALL_BYTES:
            wait_s = max(1, math.ceil(self._large_s))
            if self.total + more > self._limit * _LARGE_SHARE and self.total > hold.size:
                raise MemoryFullError(self._limit, wait_s)
            of_caller = self._of_caller[hold.caller]
            if of_caller + more > self._limit * _CALLERS_SHARE and of_caller > hold.size:
                raise CallerMemoryError(int(self._limit * _CALLERS_SHARE), wait_s)
        elif more > 0 and self.total + more > self._limit:
            raise MemoryFullError(self._limit, max(1, math.ceil(self._large_s)))
        self.total += more
        self._of_caller[hold.caller] += more
        hold.size, hold.peak = size, max(hold.peak, size)

    def _trim_later(self, seconds: float) -> None:
        """Many small lists leave memory behind as well, only less."""
        loop = asyncio.get_running_loop()
        if self._trimming is not None:
            if self._trimming.when() <= loop.time() + seconds:
                return
            self._trimming.cancel()
        self._trimming = loop.call_later(seconds, self._trim)

    def _trim(self) -> None:
        """Give memory back to the system, in a thread: with gigabytes freed it takes a tenth of a second."""
        self._trimming, self._freed = None, 0
        few = sum(one.total for one in self._all) < _LARGE_BYTES
        asyncio.get_running_loop().run_in_executor(None, trim, few)


class Hold:
    """What one request holds, in bytes."""

    __slots__ = ("_bytes", "caller", "peak", "size")

    def __init__(self, bytes_in_hand: BytesInHand, caller: str) -> None:
        self._bytes, self.caller = bytes_in_hand, caller
        self.size = self.peak = 0

    def resize(self, size: int) -> None:
        """Say how much it holds now.

        Raises:
            MemoryFullError: All requests together would hold more than the limit.
            CallerMemoryError: Those of this caller would hold more than its share.
        """
        self._bytes.change(self, size)


def trim(collect: bool = True) -> None:
    """Give back to the system what is freed.

    Python's cache of attributes goes first. It has up to 4,096 names, and C code makes some anew for each look-up
    (NumPy does): each would keep the MiB that it was made in.

    Args:
        collect: Free what only refers to itself, too. All else waits while everything that there is is looked through.
    """
    sys._clear_type_cache()
    if collect:
        gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Sparse(logging.Filter):
    """Lets so many lines a minute of one kind through, the first with its trace, and says how many it left out.

    What a client sends must not fill a disk. Lines of one kind are logged at one place, for one event.
    """

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines, self._clock = lines, clock
        self._minutes: dict[object, tuple[float, int]] = {}  # by kind: when its minute began, and the lines since

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.pathname, record.lineno, record.levelno, getattr(record, "event", ""))
        began_s, lines = self._minutes.get(kind, (-math.inf, 0))
        now_s = self._clock()
        if now_s - began_s >= 60:
            if lines > self._lines:
                record.msg = f"{record.msg} ({lines - self._lines} lines like this one were left out)"
            began_s, lines = now_s, 0
        if lines:
            record.exc_info = None
        self._minutes[kind] = began_s, lines + 1
        return lines < self._lines


def limit_log(lines: int = 60) -> None:
    """Keep clients from filling the log; the loggers are those that speak of single requests."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(Sparse(lines))
