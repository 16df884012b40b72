"""What each API key uses, against its own limits. In one process: every ingress replica counts for itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reranker.errors import QuotaExceededError
from reranker.types import Caller

_MINUTE_S = 60.0


@dataclass(slots=True)
class _Used:
    in_flight: int = 0
    owed_tokens: float = 0.0
    """Tokens used that time has not forgiven yet."""
    seen_s: float = 0.0


class Quotas:
    """Counts by caller. To be used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing used.

        Args:
            clock: Seconds; for tests.
        """
        self._clock = clock
        self._used: dict[str, _Used] = {}

    @contextmanager
    def request(self, caller: Caller) -> Iterator[None]:
        """Let a request in, for as long as the block lasts.

        Raises:
            QuotaExceededError: The caller has too many here already, or has used its tokens of this minute.
        """
        used = self._used.setdefault(caller.name, _Used(seen_s=self._clock()))
        if caller.max_in_flight is not None and used.in_flight >= caller.max_in_flight:
            raise QuotaExceededError(f"{caller.max_in_flight} requests at the same time", 1)
        if caller.tokens_per_minute is not None:
            over = self._forgive(used, caller.tokens_per_minute) - caller.tokens_per_minute
            if over >= 0:  # what a list will have is not known yet: the last one before may go beyond
                wait_s = max(1, math.ceil(over * _MINUTE_S / caller.tokens_per_minute))
                raise QuotaExceededError(f"{caller.tokens_per_minute} tokens per minute", wait_s)
        used.in_flight += 1
        try:
            yield
        finally:
            used.in_flight -= 1

    def spend(self, caller: Caller, tokens: int) -> None:
        """Note what an answer took."""
        if caller.tokens_per_minute is not None:
            used = self._used[caller.name]
            used.owed_tokens = self._forgive(used, caller.tokens_per_minute) + tokens

    def _forgive(self, used: _Used, tokens_per_minute: int) -> float:
        now_s = self._clock()
        used.owed_tokens = max(0.0, used.owed_tokens - (now_s - used.seen_s) * tokens_per_minute / _MINUTE_S)
        used.seen_s = now_s
        return used.owed_tokens
