"""What an attack is, what came of it, and the ways of sending that attacks share."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from tests.attacks.wire import TIMEOUT_S, Address, Answer, exchange, head

Made = TypeVar("Made")
REFUSED = frozenset({400, 413, 422})
"""The request is wrong, or can never fit."""
LATER = frozenset({429, 503})
"""With `Retry-After`."""
MAX_RETRY_AFTER_S = 120
"""A request ends after so long: whatever is in flight has ended by then."""
ANSWERED = frozenset({200}) | REFUSED | LATER
IN_TIME = ANSWERED | {504}
"""The same of what engines have much to do for: it may be more than they can do before its deadline."""


@dataclass(slots=True)
class Target:
    """The service, and how hard to try."""

    address: Address
    key: str
    other_key: str
    quick: bool
    """Whether a minute is all there is."""
    hurried: bool
    """Whether bounds of time are wide: what takes shorter then shows as much."""
    seed: int
    places: Mapping[str, bool] = field(default_factory=dict)
    """What is there: "ui", "admin"."""

    def mb(self, size_mb: float) -> int:
        """Bytes of a body; a tenth when in a hurry."""
        return int(size_mb * 1_000_000 / (10 if self.quick else 1))

    def count(self, number: int) -> int:
        """How many; a tenth where a minute is all there is, half of it in a hurry."""
        return max(1, number // (10 if self.quick else 2 if self.hurried else 1))

    def seconds(self, seconds: float) -> float:
        """How long; a fifth when in a hurry."""
        return seconds / (5 if self.quick else 2.5 if self.hurried else 1)

    def chance(self) -> random.Random:
        """Chance that the printed seed repeats."""
        return random.Random(self.seed)

    @property
    def authorized(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@dataclass(slots=True)
class Outcome:
    """What the attacker saw."""

    answers: Counter[str] = field(default_factory=Counter)
    """How often each status came, or why none did."""
    requests: int = 0
    """Or connections, where those were the attack."""
    faults: list[str] = field(default_factory=list)
    """What should not have been, beside the cost."""
    slowest_s: float = 0.0
    skipped: str = ""
    """Why it was not tried."""

    def take(self, answer: Answer, allowed: Collection[int] | None = None, what: str = "") -> None:
        """Count an answer, which must be one of these."""
        self.requests += 1
        self.answers[answer.shown] += 1
        self.slowest_s = max(self.slowest_s, answer.seconds)
        if allowed is not None and answer.status not in allowed:
            self.blame(f"{what or 'a request'} got {answer.shown}".strip())
        if answer.retry_after_missing:
            self.blame(f"{answer.status} without Retry-After")
        later = answer.headers.get("retry-after", "")
        if later.isdecimal() and int(later) > MAX_RETRY_AFTER_S:
            self.blame(f"{answer.status} says Retry-After: {later}, with a queue of seconds")

    def blame(self, fault: str) -> None:
        """Note a fault once."""
        if fault not in self.faults:
            self.faults.append(fault)


@dataclass(frozen=True, slots=True)
class Attack:
    """One way of doing harm."""

    name: str
    run: Callable[[Target], Outcome]
    fact: str = ""
    """The finding that it repeats; `held` where none was found."""
    with_key: bool = False
    quick: bool = False
    """Whether it is among those of the quick minute."""
    needs: str = ""
    """See `Target.places`."""
    overloads: bool = False
    """Whether it gives the engines more to do than they can: who asks besides waits for a turn there."""


def post(
    target: Target,
    path: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Send one body, with the key unless the headers say otherwise."""
    fields = {"content-type": "application/json", "content-length": str(len(body))} | dict(
        target.authorized if headers is None else headers
    )
    return exchange(target.address, [head("POST", path, fields), body], timeout_s)


def at_once(jobs: Sequence[Callable[[], Made]], workers: int = 8) -> list[Made]:
    """Do all of them, so many at the same time."""
    with ThreadPoolExecutor(max(1, min(workers, len(jobs)))) as pool:
        return list(pool.map(lambda job: job(), jobs))


def posted(
    target: Target,
    body: bytes,
    path: str = "/v1/rerank",
    copies: int = 1,
    allowed: Collection[int] = IN_TIME,
    headers: Mapping[str, str] | None = None,
) -> Outcome:
    """Send one body so many times at once."""
    outcome = Outcome()
    for answer in at_once([lambda: post(target, path, body, headers)] * copies, copies):
        outcome.take(answer, allowed)
    return outcome


def for_a_while(seconds: float, workers: int, job: Callable[[int], Iterable[Answer]], outcome: Outcome) -> None:
    """Repeat a job on so many threads."""
    until_s = time.monotonic() + seconds

    def work(number: int) -> list[Answer]:
        answers: list[Answer] = []
        while time.monotonic() < until_s:
            answers += job(number)
        return answers

    with ThreadPoolExecutor(workers) as pool:
        for answers in pool.map(work, range(workers)):
            for answer in answers:
                outcome.take(answer)
