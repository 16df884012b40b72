"""Lists that keep coming to a cluster, to each ingress in turn; every answer is compared with what it must be.

The scores of simulated engines are a function of the text, so each list's are known for each model that may score it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from benchmarks.load import Answer, Client
from benchmarks.results import percentiles
from tests.integration.traffic import RankedList

TIMEOUT_S = 60
TRIES = 4
"""Addresses that a client asks, one after the other, until it has an answer: a gateway in front does the same."""
_PAUSE_S = 0.3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one list."""

    sent_s: float
    """On the monotonic clock."""
    took_s: float
    documents: int
    first: str
    """Name of the ingress's node that was asked first."""
    problem: str | None
    """What was wrong with the last answer."""
    refusals: tuple[str, ...]
    """What those said that were asked before, by node."""
    model: str = ""
    hedges: int = 0
    retries: int = 0


@dataclass
class Load:
    """Lists at a rate, whatever the answers do, for as long as the block lasts; in a thread of its own."""

    urls: Mapping[str, str]
    lists: Sequence[RankedList]
    rate_per_s: float
    at_random: bool = False
    """Whether they come at random moments, so that they meet: a Poisson process."""
    outcomes: list[Outcome] = field(default_factory=list)
    avoided: set[str] = field(default_factory=set)
    """Nodes that are not asked first: a gateway would know that they are gone."""

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no more, and wait for the answers that are due."""
        self._stopped.set()
        self._thread.join()

    def wait_for(self, answers: int, timeout_s: float = 120) -> None:
        """Wait until so many more lists have come to their end."""
        wanted, deadline = len(self.outcomes) + answers, time.monotonic() + timeout_s
        while len(self.outcomes) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.outcomes)} of {wanted} lists are answered")
            time.sleep(0.05)

    def since(self, moment_s: float) -> list[Outcome]:
        """What became of the lists that were sent from a moment on."""
        return [one for one in list(self.outcomes) if one.sent_s >= moment_s]

    async def _send(self) -> None:
        bodies = [one.body(timings=False, cache="off") for one in self.lists]
        pending: set[asyncio.Task[None]] = set()
        async with contextlib.AsyncExitStack() as stack:
            clients = {n: await stack.enter_async_context(Client(url, TIMEOUT_S)) for n, url in self.urls.items()}
            names = itertools.cycle(self.urls)
            next_s, draw = time.monotonic(), random.Random(0)
            for number in itertools.count():
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                next_s += draw.expovariate(self.rate_per_s) if self.at_random else 1 / self.rate_per_s
                if self._stopped.is_set():
                    break
                name = next(one for one in names if one not in self.avoided)
                which = number % len(self.lists)
                task = asyncio.create_task(self._one(clients, name, self.lists[which], bodies[which]))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.gather(*pending)

    async def _one(self, clients: Mapping[str, Client], first: str, one: RankedList, body: bytes) -> None:
        sent_s, refusals = time.monotonic(), list[str]()
        others = itertools.cycle([first, *(name for name in clients if name != first)])
        for name in itertools.islice(others, TRIES):
            answer = await clients[name].rerank(body)
            problem = _problem(one, answer)
            if answer.ok:
                break
            refusals.append(f"{name}: {problem}")
            await asyncio.sleep(_PAUSE_S if len(refusals) >= len(clients) else 0)
        said: dict[str, Any] = answer.json() if answer.ok else {}
        meta = said.get("meta", {})
        outcome = Outcome(
            *(sent_s, time.monotonic() - sent_s, len(one.documents), first, problem),
            *(tuple(refusals), said.get("model", ""), meta.get("hedges", 0), meta.get("retries", 0)),
        )
        self.outcomes.append(outcome)


def _problem(one: RankedList, answer: Answer) -> str | None:
    if answer.ok:
        return one.wrong(answer.json())
    if not answer.status:  # the connection broke, or none was had
        return answer.body.decode().partition("(")[0]
    return f"{answer.status} {answer.body[:120]!r}"


def summary(outcomes: Sequence[Outcome], limit: Callable[[int], float] = lambda _: 1.0) -> dict[str, Any]:  # Any: JSON
    """Count what was lost, wrong, or had to be asked again; and how long they took, by documents."""
    lost = [one for one in outcomes if one.problem and len(one.refusals) == TRIES]
    wrong = [one for one in outcomes if one.problem and len(one.refusals) < TRIES]
    refused = Counter(" ".join(text.split(" ")[:2]) for one in outcomes for text in one.refusals)
    sizes = sorted({one.documents for one in outcomes})
    return {
        "lists": len(outcomes),
        "lost": len(lost),
        "wrong": len(wrong),
        "first_problems": [str(one.problem) for one in (lost + wrong)[:3]],
        "asked_a_second_address": sum(bool(one.refusals) for one in outcomes),
        "as": dict(refused),
        "models": dict(Counter(one.model for one in outcomes)),
        "sent_again": sum(one.retries for one in outcomes),
        "hedged": sum(one.hedges for one in outcomes),
        "took_s": {str(n): percentiles([o.took_s for o in outcomes if o.documents == n]) for n in sizes},
    }
