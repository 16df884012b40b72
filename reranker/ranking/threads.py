"""Threads for work that is too long for the event loop, shared fairly between callers."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class FairThreads:
    """Callers take turns, and one thread is always left for another caller. To be used from one event loop."""

    def __init__(self, threads: int = 0) -> None:
        """Start them as they are needed; 0: one for each core, at least four."""
        self._threads = threads or max(4, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="work")
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By caller, in the order in which their turns come."""

    async def run(self, caller: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread when it is its caller's turn.

        It runs to its end even if this is cancelled, and counts until then.
        """
        loop = asyncio.get_running_loop()
        if not self._may_start(caller) or caller in self._waiting:
            turn = loop.create_future()
            self._waiting.setdefault(caller, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._end(caller)
                raise
        else:
            self._running[caller] += 1
        work = self._executor.submit(function, *args, **kwargs)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end, caller))
        return await asyncio.wrap_future(work)

    def _may_start(self, caller: str) -> bool:
        return self._running.total() < self._threads and self._running[caller] < max(1, self._threads - 1)

    def _end(self, caller: str) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        for name in list(self._waiting):
            turns = self._waiting[name]
            while turns and turns[0].done():  # cancelled
                turns.popleft()
            if turns and self._may_start(name):
                self._running[name] += 1
                turns.popleft().set_result(None)
                self._waiting[name] = self._waiting.pop(name)  # to the end of the row
            if not turns:
                del self._waiting[name]
