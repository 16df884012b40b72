"""What one request went through: its stages and shards on one clock.

Whoever does a part of the work notes it here at once, so that it is known after an error too. `Server-Timing`,
`timings`, metrics, spans and log lines are made of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, NamedTuple, TypeAlias

from reranker.types import EngineScores, Ranking, TokenArray

STAGES = (
    *("read", "parse", "admit", "retrieve", "cache", "coalesce", "tokenize", "queue", "engine", "merge", "evidence"),
    "respond",
)
"""In the order of a request that is scored: receive and decompress the body; read it; find room for the list; for a
search, find the candidates; look up known scores; wait for other lists' scores; make prompts; wait in a replica; be
scored there; make one ranking; find its spans, which has all stages from the cache on within it; write the answer."""
CLIENT_GONE = 499  # status of a request whose client has hung up; the number is nginx's
Outcome: TypeAlias = Literal["under way", "answered", "lost", "failed", "dropped"]
"""Lost: the replica has ended. Dropped: by us, as another attempt or the list was done."""


class Interval(NamedTuple):
    """A stage, or a part of one: a stage may come several times, and overlap others."""

    stage: str
    began_s: float  # on `time.monotonic`'s clock, as all times here
    ended_s: float


@dataclass(slots=True)
class Attempt:
    """One sending of a shard to one replica."""

    hedge: bool = False  # sent while another attempt lagged
    replica: str = ""  # empty: none was chosen yet
    sent_s: float = field(default_factory=time.monotonic)
    expected_s: float | None = None  # that its replica needed for all that it had, this shard included
    ended_s: float | None = None
    outcome: Outcome = "under way"

    def end(self, outcome: Outcome) -> None:
        if self.ended_s is None:
            self.ended_s, self.outcome = time.monotonic(), outcome


@dataclass(slots=True)
class ShardRecord:
    """One shard and its attempts."""

    pairs: int = 0
    tokens: int = 0  # `Shard.work_tokens`
    document_of_pair: TokenArray | None = None  # shape (pairs,): each pair's document, by its position in the list
    attempts: list[Attempt] = field(default_factory=list)  # the first, those after a lost replica, and hedges
    answer: Attempt | None = None  # the attempt that counted
    queue_s: float = 0.0  # as `EngineScores.queue_s`
    engine_s: float = 0.0  # as `EngineScores.engine_s`

    def send(self, *, hedge: bool = False) -> Attempt:
        attempt = Attempt(hedge)
        self.attempts.append(attempt)
        return attempt

    def answered(self, attempt: Attempt, scores: EngineScores) -> None:
        attempt.end("answered")
        self.answer, self.queue_s, self.engine_s = attempt, scores.queue_s, scores.engine_s

    def end(self) -> None:
        for attempt in self.attempts:
            attempt.end("dropped")

    @property
    def documents(self) -> list[int]:
        return sorted(set(self.document_of_pair.tolist())) if self.document_of_pair is not None else []

    @property
    def replica(self) -> str:
        """Who answered. Empty: nobody."""
        return self.answer.replica if self.answer else ""

    @property
    def sent_s(self) -> float:
        return self.attempts[0].sent_s if self.attempts else 0.0

    @property
    def total_s(self) -> float:
        """Seconds from its first sending to its answer, or to the end of the last attempt."""
        ends = [one.ended_s for one in ([self.answer] if self.answer else self.attempts) if one.ended_s is not None]
        return max(ends, default=self.sent_s) - self.sent_s

    def intervals(self) -> Iterator[Interval]:
        """When it waited and was scored in the replica that answered, on our clock.

        A replica sends durations only, as two machines' clocks differ; both ways are taken as equally long.
        """
        if self.answer:
            way_s = max(0.0, (self.answer.ended_s or 0.0) - self.answer.sent_s - self.queue_s - self.engine_s)
            turn_s = self.answer.sent_s + way_s / 2 + self.queue_s
            yield Interval("queue", turn_s - self.queue_s, turn_s)
            yield Interval("engine", turn_s, turn_s + self.engine_s)


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request, from the moment its head is there. To be used from one event loop."""

    request_id: str = ""  # the client's, or ours
    method: str = ""
    path: str = ""
    began_s: float = field(default_factory=time.monotonic)
    began_unix_ns: int = field(default_factory=time.time_ns)
    ended_s: float | None = None
    intervals: list[Interval] = field(default_factory=list)  # stages in this process, in the order in which they ended
    shards: list[ShardRecord] = field(default_factory=list)  # of all lists, in the order of sending
    status: int = 0  # of the answer; `CLIENT_GONE` where nobody waits for it. 0: not known yet
    error: str = ""  # `error_type` of the answer (docs/errors.md). Empty: none
    caller: str = ""  # name of the key; "anonymous" without keys. Empty: not let in, or no key is needed there
    dialect: str = ""  # empty: not known yet, or no ranking
    priority: str = ""
    model: str = ""  # that ranks it, or the cascade, as the configuration names it. Empty: not known yet
    body_bytes: int = 0
    lists: int = 0
    documents: int = 0
    after: Callable[[], None] | None = None  # what is to begin once the answer is out
    found_bytes: int = 0  # size of the documents that a search found
    rankings: Sequence[Ranking] = ()  # what was answered, list by list
    traceparent: str = ""  # the caller's, as in W3C's Trace Context; not checked
    tracestate: str = ""
    trace_id: str = ""  # in hexadecimal. Empty: the request is in no trace that is kept
    _stages_s: tuple[int, dict[str, float]] = (-1, {})

    @property
    def size_bytes(self) -> int:
        """What admission counts, before tokens are known."""
        return self.body_bytes + self.found_bytes

    def stage(self, name: str) -> Stage:
        return Stage(self.intervals, name)

    def shard(self, pairs: int, tokens: int, document_of_pair: TokenArray) -> ShardRecord:
        record = ShardRecord(pairs, tokens, document_of_pair)
        self.shards.append(record)
        return record

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts that were answered for, known ones too: what the caller is billed."""
        return sum(ranking.prompt_tokens for ranking in self.rankings)

    @property
    def pairs(self) -> int:
        """Prompts sent to engines, each counted once."""
        return sum(shard.pairs for shard in self.shards)

    @property
    def replicas(self) -> int:
        return len({shard.replica for shard in self.shards} - {""})

    @property
    def retries(self) -> int:
        return sum(not one.hedge for shard in self.shards for one in shard.attempts[1:])

    @property
    def hedges(self) -> int:
        return sum(one.hedge for shard in self.shards for one in shard.attempts)

    def begin_what_follows(self) -> None:
        """The answer is out."""
        if self.after is not None and self.status < 300:
            self.after()

    def end(self) -> None:
        """Note that the answer is out, or will not come."""
        for shard in self.shards:
            shard.end()
        self.ended_s = time.monotonic()

    @property
    def total_s(self) -> float:
        return (time.monotonic() if self.ended_s is None else self.ended_s) - self.began_s

    def stages_s(self) -> dict[str, float]:
        """Seconds in which each stage was going on. Their sum may exceed the whole, as stages overlap."""
        known = len(self.intervals) + sum(shard.answer is not None for shard in self.shards)
        if known != self._stages_s[0]:  # the header, metrics and the log ask one after the other
            of_stage: dict[str, list[Interval]] = {}
            for one in itertools.chain(self.intervals, *(shard.intervals() for shard in self.shards)):
                of_stage.setdefault(one.stage, []).append(one)
            self._stages_s = known, {name: covered_s(of_stage[name]) for name in STAGES if name in of_stage}
        return self._stages_s[1]


class Stage:
    """Times a block; see `RequestRecord.stage`. A generator would take three times as long: 2.2 us."""

    __slots__ = ("_began_s", "_intervals", "_name")

    def __init__(self, intervals: list[Interval], name: str) -> None:
        self._intervals, self._name, self._began_s = intervals, name, 0.0

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._intervals.append(Interval(self._name, self._began_s, time.monotonic()))


def covered_s(intervals: Sequence[Interval]) -> float:
    """Seconds within at least one of the intervals."""
    if len(intervals) == 1:  # most stages come once
        return intervals[0].ended_s - intervals[0].began_s
    covered_s, until_s = 0.0, float("-inf")
    for _, began_s, ended_s in sorted(intervals, key=itemgetter(1)):
        covered_s += max(0.0, ended_s - max(began_s, until_s))
        until_s = max(until_s, ended_s)
    return covered_s


request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set per request in an ingress and per shard in a replica; tasks started there have it too. Empty: none."""
