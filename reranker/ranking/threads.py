"""Work that is too long for the event loop: threads shared fairly between callers, and answers that several share."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from reranker.errors import NoAnswerError

P = ParamSpec("P")
T = TypeVar("T")

_MOST_THREADS = 16
"""Each keeps the tokenizer's cache of words, 17 MB; and a pod on a large machine has few of its cores."""


class FairThreads:
    """Callers take turns, and one thread is always left for another caller. To be used from one event loop."""

    def __init__(self, threads: int = 0) -> None:
        """Start them as they are needed; 0: one for each core, at least four and at most `_MOST_THREADS`."""
        self._threads = threads or min(_MOST_THREADS, max(4, os.cpu_count() or 1))
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


class SharedCall(Generic[T]):
    """Makes one call at a time; all who ask meanwhile, or within `keep_s` of its beginning, get its answer."""

    def __init__(self, call: Callable[[], Awaitable[T]], keep_s: float = 0.0, limit_s: float = 10.0) -> None:
        self._call, self._keep_s, self._limit_s = call, keep_s, limit_s
        self._calling: asyncio.Future[T] | None = None
        self._began_s = 0.0

    async def answer(self) -> T:
        """Give it; NoAnswerError once the call takes longer than `limit_s`. It goes on then, and is not made again."""
        now_s, calling = asyncio.get_running_loop().time(), self._calling
        if calling is None or (calling.done() and now_s >= self._began_s + self._keep_s):
            calling = self._calling = asyncio.ensure_future(self._call())
            calling.add_done_callback(lambda done: done.cancelled() or done.exception())  # there may be nobody left
            self._began_s = now_s
        await asyncio.wait([calling], timeout=max(0.0, self._began_s + self._limit_s - now_s))
        if not calling.done():
            raise NoAnswerError
        return calling.result()
