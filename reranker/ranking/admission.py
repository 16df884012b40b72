"""Who is let in: one permit for a whole list, sized in tokens, before any work.

The queue is measured in time: the tokens in flight over the speed of the replicas. A list is let in while the work
before it takes less time than its class may find queued. Pure: the caller brings the replicas' load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import OverloadedError, RequestTooLargeError
from reranker.types import Priority, ReplicaLoad

_FIRST_GUESS_TOKENS_PER_BYTE = 0.25
_MEMORY_LISTS = 50  # lists after which a body's size is mostly forgotten
_HEADROOM = 0.9  # of the allowed queue. Its time is an estimate, which one list in a hundred must not exceed by much
_LARGER = 4
"""A larger list counts as so many times the new one, as they take turns. For a bulk list it counts whole: the rest of
the queue is for people."""


class Permit:
    """Leave for the lists of a request to occupy the service with so many tokens, until it is given back."""

    def __init__(self, admission: Admission, body_bytes: int, tokens: int, lists: int) -> None:
        self._admission, self._body_bytes, self.tokens = admission, body_bytes, tokens
        self._counts, self._open = [0] * lists, set(range(lists))

    def grow(self, tokens: int, number: int = 0) -> None:
        """Say how many tokens list `number` has so far; RequestTooLargeError if the lists have more than any may."""
        self._counts[number] = tokens
        self._admission.resize(self, sum(self._counts), last=not self._open)

    def resize(self, tokens: int, number: int = 0) -> None:
        """The same, once all of it is rendered. What was let in stays in."""
        self._open.discard(number)
        self.grow(tokens, number)
        if not self._open and self._body_bytes:
            self._admission.learn(sum(self._counts), self._body_bytes)


class Admission:
    """Keeps count of the lists in one ingress replica. To be used from one event loop."""

    def __init__(self, config: AdmissionConfig, priorities: PrioritiesConfig) -> None:
        self._config, self._priorities = config, priorities
        self._permits: set[Permit] = set()
        self._tokens = 0
        self._tokens_per_byte = _FIRST_GUESS_TOKENS_PER_BYTE

    @property
    def lists_in_flight(self) -> int:
        return len(self._permits)

    @property
    def tokens_in_flight(self) -> int:
        return self._tokens

    def require_any_room(self, body_bytes: int, elsewhere: ReplicaLoad) -> None:
        """Raise OverloadedError if no class has room for a body of this size: refusing must stay cheap."""
        share = max(self._priorities.interactive.queue_share, self._priorities.bulk.queue_share)
        self._require_room(body_bytes, self._config.max_queue_s * share, elsewhere, _LARGER)

    @contextmanager
    def permit(
        self, body_bytes: int, priority: Priority, timeout_s: float, elsewhere: ReplicaLoad, lists: int = 1
    ) -> Iterator[Permit]:
        """Let lists in for as long as the block lasts, or raise OverloadedError, which says when there is room.

        Args:
            body_bytes: Size of what is to be scored; counting its tokens is work. 0: all is known, and always let in.
            priority: The request's class.
            timeout_s: Seconds it has.
            elsewhere: All replicas together: their work for other ingress replicas, and their speed.
            lists: How many the request has.
        """
        # A list that would not get its turn in time is not started either.
        allowed_s = min(self._config.max_queue_s * self._priorities.of(priority).queue_share, timeout_s)
        larger = _LARGER if priority == "interactive" else math.inf
        tokens = self._require_room(body_bytes, allowed_s, elsewhere, larger)
        permit = Permit(self, body_bytes, tokens, lists)
        self._permits.add(permit)
        self._tokens += tokens
        try:
            yield permit
        finally:
            self._permits.remove(permit)
            self._tokens -= permit.tokens

    def _require_room(self, body_bytes: int, allowed_s: float, elsewhere: ReplicaLoad, larger: float) -> int:
        """Estimate a body's tokens, and raise OverloadedError if too much work is before it."""
        tokens = math.ceil(body_bytes * self._tokens_per_byte)
        if not (self._tokens or elsewhere.pending_tokens) or not body_bytes:
            return tokens  # waiting would not make it shorter
        before = elsewhere.pending_tokens + sum(min(one.tokens, larger * tokens) for one in self._permits)
        speed = elsewhere.tokens_per_s
        too_much = self._tokens + elsewhere.pending_tokens + tokens - self._config.max_tokens_in_flight
        if speed is not None:
            too_much = max(too_much, math.ceil(before - speed * allowed_s * _HEADROOM))
        if too_much > 0:
            queue_s, wait_s = (before / speed, too_much / speed) if speed else (0.0, 0.0)
            raise OverloadedError(round(queue_s, 1), max(1, math.ceil(wait_s)))
        return tokens

    def resize(self, permit: Permit, tokens: int, *, last: bool) -> None:
        if tokens > self._config.max_tokens_in_flight:
            raise RequestTooLargeError("documents", tokens, self._config.max_tokens_in_flight, "tokens")
        if not last:
            tokens = max(tokens, permit.tokens)  # the estimate may still be the better one
        self._tokens += tokens - permit.tokens
        permit.tokens = tokens

    def learn(self, tokens: int, body_bytes: int) -> None:
        """Note how many tokens a body had. 0: its scores were known, which teaches nothing."""
        if tokens:
            self._tokens_per_byte += (tokens / body_bytes - self._tokens_per_byte) / _MEMORY_LISTS

    def check_integrity(self) -> None:
        """Raise RuntimeError if the count of tokens is not that of the permits."""
        tokens = sum(permit.tokens for permit in self._permits)
        if tokens != self._tokens:
            raise RuntimeError(f"{self._tokens} tokens counted, {tokens} in permits. This is a bug.")
