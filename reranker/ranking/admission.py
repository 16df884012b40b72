"""Who is let in: one permit for a whole list, sized in tokens, before any work.

The queue is measured in time: the tokens in flight over the speed of the replicas. A list is let in while the work
before it takes less time than its class may find queued. Pure: the caller brings the replicas' load.
"""

from __future__ import annotations

import math
from typing import Self

from reranker.config import AdmissionConfig, PrioritiesConfig
from reranker.errors import OverloadedError, RequestTooLargeError
from reranker.types import Priority, ReplicaLoad

_FIRST_GUESS_TOKENS_PER_BYTE = 0.25
_LARGE_BYTES = 64 * 1024
_MEMORY_LISTS = 50  # lists after which a body's size is mostly forgotten
_HEADROOM = 0.9  # of the allowed queue. Its time is an estimate, which one list in a hundred must not exceed by much
_SMALL, _RESERVE = 0.01, 1.25
"""Of `max_tokens_in_flight`: lists that are so small are let in beyond it, up to so much: one huge list may fill it."""
_LARGER = 4
"""A larger list counts as so many times the new one, as they take turns. For a bulk list it counts whole: the rest of
the queue is for people."""


class Permit:
    """Leave for the lists of a request to occupy the service with so many tokens, for as long as the block lasts."""

    def __init__(self, admission: Admission, body_bytes: int, tokens: int, lists: int, later: float = 0.0) -> None:
        """Expect the same of each list; `later`: this share of all of two more, in which evidence is looked for."""
        self._admission, self._body_bytes, self.tokens = admission, body_bytes, tokens
        self._expected = [int(tokens * (1 - later)) // lists] * lists + [int(tokens * later / 2)] * 2 * (later > 0)
        self._counts, self._open = [0] * len(self._expected), set(range(len(self._expected)))
        # Their sums: a request may have 10,000 lists.
        self._counted, self._expected_in_all = 0, sum(self._expected)

    def __enter__(self) -> Self:
        self._admission.permits.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._admission.permits.remove(self)

    def grow(self, tokens: int, number: int = 0, share: float = 0.0) -> None:
        """Say how many tokens list `number` has so far; RequestTooLargeError if the lists have more than any may.

        `share` is the part of its text that they are of: the rest is expected to be like it. 0: nobody knows, and the
        first guess stands. Others are refused for what engines have to do, not for a guess about spaces.
        """
        self._counted += tokens - self._counts[number]
        self._counts[number] = tokens
        if share:
            self._expect(math.ceil(tokens / share), number)
        self.tokens = max(self._admission.bounded(self._counted), self._expected_in_all)

    def resize(self, tokens: int, number: int = 0) -> None:
        """The same, once all of it is rendered. What was let in stays in."""
        self._open.discard(number)
        self.grow(tokens, number, 1.0)
        if self.tokens and self._body_bytes and not self._open:  # no tokens: all was known, which teaches nothing
            self._admission.learn(self.tokens / self._body_bytes, self._body_bytes)

    def _expect(self, tokens: int, number: int) -> None:
        self._expected_in_all += tokens - self._expected[number]
        self._expected[number] = tokens


class Admission:
    """Keeps count of the lists in one ingress replica. To be used from one event loop."""

    def __init__(self, config: AdmissionConfig, priorities: PrioritiesConfig, longest_s: float) -> None:
        """No list is in flight for more than `longest_s`."""
        self._config, self._priorities, self._longest_s = config, priorities, longest_s
        self.permits: set[Permit] = set()  # that are out
        self._tokens_per_byte = {False: _FIRST_GUESS_TOKENS_PER_BYTE, True: _FIRST_GUESS_TOKENS_PER_BYTE}
        """By whether a body is large: in small ones the prompt's own tokens weigh more."""

    @property
    def lists_in_flight(self) -> int:
        return len(self.permits)

    @property
    def tokens_in_flight(self) -> int:
        return sum(permit.tokens for permit in self.permits)

    def require_any_room(self, body_bytes: int, elsewhere: ReplicaLoad) -> None:
        """Raise OverloadedError if no class has room for a body of this size: refusing must stay cheap."""
        share = max(self._priorities.interactive.queue_share, self._priorities.bulk.queue_share)
        self._require_room(body_bytes, self._config.max_queue_s * share, elsewhere, _LARGER)

    def permit(
        self,
        body_bytes: int,
        priority: Priority,
        timeout_s: float,
        elsewhere: ReplicaLoad,
        lists: int = 1,
        most_tokens: float = math.inf,
        later: float = 0.0,
    ) -> Permit:
        """Let lists in; OverloadedError if there is no room now, which says when there will be.

        `body_bytes` is the size of what is to be scored, as counting its tokens is work. 0: all is known, and always
        let in. `elsewhere` is of all replicas together: their work for other ingress replicas, and their speed.
        `most_tokens` is what so many documents can have, however long they are; `later`: see `Permit`.
        """
        # A list that would not get its turn in time is not started either.
        allowed_s = min(self._config.max_queue_s * self._priorities.of(priority).queue_share, timeout_s)
        larger = _LARGER if priority == "interactive" else math.inf
        tokens = self._require_room(body_bytes, allowed_s, elsewhere, larger, most_tokens)
        return Permit(self, body_bytes, tokens, lists, later)

    def _require_room(
        self, body_bytes: int, allowed_s: float, elsewhere: ReplicaLoad, larger: float, most_tokens: float = math.inf
    ) -> int:
        most = self._config.max_tokens_in_flight  # whether a list can never be let in, its tokens alone can tell
        tokens = math.ceil(min(body_bytes * self._tokens_per_byte[body_bytes > _LARGE_BYTES], most_tokens, most))
        here, there, speed = self.tokens_in_flight, elsewhere.pending_tokens, elsewhere.tokens_per_s
        if not (here or there) or not body_bytes:
            return tokens  # waiting would not make it shorter
        before = there + sum(min(one.tokens, larger * tokens) for one in self.permits)
        own = 0 if most_tokens == math.inf else tokens  # of bytes alone, it is a guess
        too_much = math.ceil(here + there + own - most * (_RESERVE if tokens <= most * _SMALL else 1))
        if speed is not None:
            too_much = max(too_much, math.ceil(before - speed * allowed_s * _HEADROOM))
        if too_much > 0:
            queue_s, wait_s = (before / speed, too_much / speed) if speed else (0.0, 0.0)
            # Work of which only the bytes are known is a guess; the deadlines are none.
            raise OverloadedError(round(queue_s, 1), max(1, math.ceil(min(wait_s, self._longest_s))))
        return tokens

    def bounded(self, tokens: int) -> int:
        """The same count, or RequestTooLargeError: it is more than is ever let in."""
        if tokens > self._config.max_tokens_in_flight:
            raise RequestTooLargeError("documents", tokens, self._config.max_tokens_in_flight, "tokens")
        return tokens

    def learn(self, tokens_per_byte: float, body_bytes: int) -> None:
        large = body_bytes > _LARGE_BYTES
        self._tokens_per_byte[large] += (tokens_per_byte - self._tokens_per_byte[large]) / _MEMORY_LISTS
