"""Who is let in: one permit for a whole list, sized in tokens, before any work. Never half a list.

The queue is measured in time: the tokens in flight over the speed of the replicas. A list is let in while what goes
before it takes less than its class may find queued. Pure: no clock; the caller brings what it knows of the replicas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import OverloadedError, RequestTooLargeError
from reranker.types import Priority, ReplicaLoad

_FIRST_GUESS_TOKENS_PER_BYTE = 0.25
_MEMORY_LISTS = 50
"""Lists after which a body's size has mostly been forgotten."""

_HEADROOM = 0.9
"""Of the allowed queue: the time it takes is an estimate, and one list in a hundred must not exceed it by much."""

_LARGER = 4
"""Of a list more than so many times as large as a new one, no more counts as queued before it: they take turns. But not
for jobs: what is left of the queue is for people."""


class Permit:
    """Leave to occupy the service with so many tokens, until it is given back."""

    def __init__(self, admission: Admission, body_bytes: int, tokens: int) -> None:
        self._admission, self._body_bytes = admission, body_bytes
        self.tokens = tokens

    def split(self, lists: int) -> list[PermitPart]:
        """Give each of several lists its part."""
        found: dict[PermitPart, tuple[int, bool]] = {}
        return [PermitPart(self, found) for _ in range(lists)]

    def grow(self, tokens: int) -> None:
        """Say how many tokens were found so far, before all of the list is rendered.

        Raises:
            RequestTooLargeError: That is more than is ever let in.
        """
        self._admission.require_possible(tokens)
        self._admission.resized(self, max(tokens, self.tokens))  # the estimate may still be the better one

    def resize(self, tokens: int) -> None:
        """Say how many tokens the list really has, now that it is rendered. What was let in stays in.

        Raises:
            RequestTooLargeError: A list of this size is never let in.
        """
        self._admission.require_possible(tokens)
        self._admission.resized(self, tokens)
        if tokens and self._body_bytes:  # of a list whose scores were known there is nothing to learn
            self._admission.learn(tokens, self._body_bytes)


class PermitPart:
    """What one of several lists under the same permit says of its size; see `Permit`."""

    def __init__(self, permit: Permit, found: dict[PermitPart, tuple[int, bool]]) -> None:
        self._permit, self._found = permit, found
        found[self] = (0, False)

    def grow(self, tokens: int) -> None:
        """Say how many tokens were found so far; raises as `Permit.grow`."""
        self._say(tokens, last=False)

    def resize(self, tokens: int) -> None:
        """Say how many tokens the list really has; raises as `Permit.resize`."""
        self._say(tokens, last=True)

    def _say(self, tokens: int, *, last: bool) -> None:
        self._found[self] = (tokens, last)
        together = sum(found for found, _ in self._found.values())
        if all(done for _, done in self._found.values()):
            self._permit.resize(together)
        else:
            self._permit.grow(together)


class Admission:
    """Keeps count of the lists in one ingress replica. To be used from one event loop."""

    def __init__(self, config: AdmissionConfig, priorities: PrioritiesConfig) -> None:
        """Start with nothing in flight."""
        self._config, self._priorities = config, priorities
        self._permits: set[Permit] = set()
        self._tokens = 0
        self._tokens_per_byte = _FIRST_GUESS_TOKENS_PER_BYTE

    @property
    def lists_in_flight(self) -> int:
        """Permits that are out."""
        return len(self._permits)

    @property
    def tokens_in_flight(self) -> int:
        """Tokens of the permits that are out."""
        return self._tokens

    def require_any_room(self, body_bytes: int, elsewhere: ReplicaLoad) -> None:
        """Turn away what no class would be let in with, before its body is read: refusing must stay cheap.

        Raises:
            OverloadedError: There is no room for a body of this size.
        """
        share = max(self._priorities.interactive.queue_share, self._priorities.bulk.queue_share)
        self._require_room(body_bytes, self._config.max_queue_s * share, elsewhere, _LARGER)

    @contextmanager
    def permit(self, body_bytes: int, priority: Priority, timeout_s: float, elsewhere: ReplicaLoad) -> Iterator[Permit]:
        """Let a list in, for as long as the block lasts.

        Args:
            body_bytes: Size of its request, as far as it has to be scored; its tokens are not known yet, and counting
                them is work. 0: all of it is known already, and it is always let in.
            priority: Its class.
            timeout_s: Seconds the list has.
            elsewhere: Of all replicas together: what they have to do for other ingress replicas, and their speed.

        Raises:
            OverloadedError: It does not fit now. Says when it will.
        """
        # What would not get its turn before its time is up is not started either.
        allowed_s = min(self._config.max_queue_s * self._priorities.of(priority).queue_share, timeout_s)
        larger = _LARGER if priority == "interactive" else math.inf  # a job can wait until the huge one is through
        tokens = self._require_room(body_bytes, allowed_s, elsewhere, larger)
        permit = Permit(self, body_bytes, tokens)
        self._permits.add(permit)
        self._tokens += tokens
        try:
            yield permit
        finally:
            self._permits.remove(permit)
            self._tokens -= permit.tokens

    def _require_room(self, body_bytes: int, allowed_s: float, elsewhere: ReplicaLoad, larger: float) -> int:
        """Give the tokens that a body probably has, if so much work may be queued before it."""
        tokens = math.ceil(body_bytes * self._tokens_per_byte)
        if not (self._tokens or elsewhere.pending_tokens) or not body_bytes:
            return tokens  # whatever it takes, waiting would not make it shorter
        before = elsewhere.pending_tokens + sum(min(one.tokens, larger * tokens) for one in self._permits)
        speed = elsewhere.tokens_per_s
        too_much = self._tokens + elsewhere.pending_tokens + tokens - self._config.max_tokens_in_flight
        if speed is not None:
            too_much = max(too_much, math.ceil(before - speed * allowed_s * _HEADROOM))
        if too_much > 0:
            queue_s, wait_s = (before / speed, too_much / speed) if speed else (0.0, 0.0)
            raise OverloadedError(round(queue_s, 1), max(1, math.ceil(wait_s)))
        return tokens

    def require_possible(self, tokens: int) -> None:
        """Raise RequestTooLargeError if a list of so many tokens is never let in."""
        if tokens > self._config.max_tokens_in_flight:
            raise RequestTooLargeError("documents", tokens, self._config.max_tokens_in_flight, "tokens")

    def resized(self, permit: Permit, tokens: int) -> None:
        """See `Permit.resize`."""
        self._tokens += tokens - permit.tokens
        permit.tokens = tokens

    def learn(self, tokens: int, body_bytes: int) -> None:
        """Note what a body of so many bytes had."""
        self._tokens_per_byte += (tokens / body_bytes - self._tokens_per_byte) / _MEMORY_LISTS

    def check_integrity(self) -> None:
        """Raise RuntimeError if the count of tokens is not that of the permits."""
        tokens = sum(permit.tokens for permit in self._permits)
        if tokens != self._tokens:
            raise RuntimeError(f"{self._tokens} tokens counted, {tokens} in permits. This is a bug.")
