"""What one request went through: its stages and shards on one clock, and the facts that say what request it was.

Whoever does a part of the work notes it here at once, so that after an error it still says how far things went. All
that tells of a request is made of it once the request has ended: `Server-Timing`, `timings`, metrics, spans, log lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

from reranker.types import EngineScores, Ranking, TokenArray

STAGES = ("read", "parse", "admit", "retrieve", "cache", "coalesce", "tokenize", "queue", "engine", "merge", "respond")
"""In the order of a request that is scored: receive and decompress the body; read it; find room for the list; for a
search, find the candidates; look up what is known; wait for what other lists are having scored; make prompts; wait in a
replica; be scored there; make one ranking of it; write the answer."""
CLIENT_GONE = 499
"""Status of a request whose client has hung up; the number is nginx's."""
Outcome: TypeAlias = Literal["under way", "answered", "lost", "failed", "dropped"]
"""Of one attempt at a shard. Lost: its replica has ended; dropped: by us, as another attempt or the list was done."""


class Interval(NamedTuple):
    """A stage, or a part of one: stages may come several times, and at the same time as others."""

    stage: str
    began_s: float
    """On `time.monotonic`'s clock, as all times here."""
    ended_s: float


@dataclass(slots=True)
class Attempt:
    """One sending of a shard to one replica."""

    hedge: bool = False
    """Sent while another one was under way, because that lagged."""
    replica: str = ""
    """Empty: none was chosen yet."""
    sent_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    outcome: Outcome = "under way"

    def end(self, outcome: Outcome) -> None:
        """Note how it ended, unless that is known already."""
        if self.ended_s is None:
            self.ended_s, self.outcome = time.monotonic(), outcome


@dataclass(slots=True)
class ShardRecord:
    """What became of one shard."""

    pairs: int = 0
    tokens: int = 0
    """Its work, as `Shard.work_tokens` has it."""
    document_of_pair: TokenArray | None = None
    """Shape (pairs,): position of each pair's document in its list."""
    attempts: list[Attempt] = field(default_factory=list)
    """In the order of sending: the first, those after a lost replica, and hedges."""
    answer: Attempt | None = None
    """The one that counted."""
    queue_s: float = 0.0
    """Seconds in the replica before its first pair's turn, as the replica says."""
    engine_s: float = 0.0
    """Seconds from then to the last pair's score; other lists take turns in it."""

    def send(self, *, hedge: bool = False) -> Attempt:
        """Note that it is sent, now."""
        attempt = Attempt(hedge)
        self.attempts.append(attempt)
        return attempt

    def answered(self, attempt: Attempt, scores: EngineScores) -> None:
        """Note that this attempt counts."""
        attempt.end("answered")
        self.answer, self.queue_s, self.engine_s = attempt, scores.queue_s, scores.engine_s

    def end(self) -> None:
        """Note that what is under way is dropped."""
        for attempt in self.attempts:
            attempt.end("dropped")

    @property
    def documents(self) -> list[int]:
        """Its documents, by their position in the list."""
        return sorted(set(self.document_of_pair.tolist())) if self.document_of_pair is not None else []

    @property
    def replica(self) -> str:
        """Who answered. Empty: nobody."""
        return self.answer.replica if self.answer is not None else ""

    @property
    def sent_s(self) -> float:
        """When it was sent first."""
        return self.attempts[0].sent_s if self.attempts else 0.0

    @property
    def total_s(self) -> float:
        """Seconds from its first sending to its answer, or to the end of the last attempt."""
        ends = [one.ended_s for one in ([self.answer] if self.answer else self.attempts) if one.ended_s is not None]
        return max(ends, default=self.sent_s) - self.sent_s

    def intervals(self) -> Iterator[Interval]:
        """When it waited and was scored in the replica that answered, on our clock.

        The replica tells durations only, as the clocks of two machines differ: what the way there and back took is
        shared out evenly.
        """
        if self.answer is None or self.answer.ended_s is None:
            return
        way_s = max(0.0, self.answer.ended_s - self.answer.sent_s - self.queue_s - self.engine_s)
        began_s = self.answer.sent_s + way_s / 2
        yield Interval("queue", began_s, began_s + self.queue_s)
        yield Interval("engine", began_s + self.queue_s, began_s + self.queue_s + self.engine_s)


class RequestRecord:
    """One request. To be used from one event loop; made when the request's head is there."""

    __slots__ = (
        "_told", "began_s", "began_unix_ns", "body_bytes", "caller", "dialect", "documents", "ended_s", "error",
        "found_bytes", "intervals", "lists", "method", "path", "priority", "rankings", "request_id", "shards", "status",
        "trace_id", "traceparent", "tracestate",
    )  # fmt: skip

    def __init__(self, request_id: str = "", method: str = "", path: str = "") -> None:
        """Begin now.

        Args:
            request_id: The client's, or ours.
            method: Of HTTP.
            path: Of the URL.
        """
        self.request_id, self.method, self.path = request_id, method, path
        self.began_s, self.began_unix_ns = time.monotonic(), time.time_ns()
        self.ended_s: float | None = None
        self.intervals: list[Interval] = []
        """Of the stages in this process, in the order in which they ended."""
        self.shards: list[ShardRecord] = []
        """Of all lists of the request, in the order of sending."""
        self.status = 0
        """Of the answer; 499 where the client was gone. 0: not known yet."""
        self.error = ""
        """Our code for what went wrong (docs/errors.md). Empty: nothing."""
        self.caller = ""
        """Name of the key; "anonymous" without keys. Empty: not let in, or no key is needed there."""
        self.dialect = ""
        """Empty: not known (yet), or no ranking."""
        self.priority = ""
        self.body_bytes = self.lists = self.documents = 0
        """What was asked for, as far as it was read."""
        self.found_bytes = 0
        """Size of the documents that a search found."""
        self.rankings: Sequence[Ranking] = ()
        """What was answered, list by list. Empty: nothing."""
        self.traceparent = self.tracestate = ""
        """Of the caller, as W3C's Trace Context has them; not checked."""
        self._told: tuple[int, dict[str, float]] = (-1, {})
        self.trace_id = ""
        """Of the trace it is in, in hexadecimal. Empty: it is in none that anybody keeps."""

    @property
    def size_bytes(self) -> int:
        """Size of what is to be ranked, as admission counts it before its tokens are known."""
        return self.body_bytes + self.found_bytes

    def stage(self, name: str) -> Stage:
        """Time a stage for as long as the block lasts, however it ends."""
        return Stage(self.intervals, name)

    def shard(self, pairs: int, tokens: int, document_of_pair: TokenArray) -> ShardRecord:
        """Begin the record of a shard."""
        record = ShardRecord(pairs, tokens, document_of_pair)
        self.shards.append(record)
        return record

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts that were answered for, remembered ones too: what the caller is billed."""
        return sum(ranking.prompt_tokens for ranking in self.rankings)

    @property
    def pairs(self) -> int:
        """Prompts sent to engines: documents, and windows of long ones; each once, however often it was sent."""
        return sum(shard.pairs for shard in self.shards)

    @property
    def replicas(self) -> int:
        """Distinct replicas that answered."""
        return len({shard.replica for shard in self.shards} - {""})

    @property
    def retries(self) -> int:
        """Sendings that followed a lost replica."""
        return sum(not one.hedge for shard in self.shards for one in shard.attempts[1:])

    @property
    def hedges(self) -> int:
        """Sendings beside one that lagged."""
        return sum(one.hedge for shard in self.shards for one in shard.attempts)

    def end(self) -> None:
        """Note that the answer is out, or will not come."""
        for shard in self.shards:
            shard.end()
        self.ended_s = time.monotonic()

    @property
    def total_s(self) -> float:
        """Seconds from the head to the answer; until now, where that is not out."""
        return (time.monotonic() if self.ended_s is None else self.ended_s) - self.began_s

    def all_intervals(self) -> list[Interval]:
        """Those in this process and those in replicas."""
        return self.intervals + [one for shard in self.shards for one in shard.intervals()]

    def stages_s(self) -> dict[str, float]:
        """Seconds of the request in which each stage was going on, once or several times at once; those it had.

        They may add up to more than the whole, as stages overlap: one portion of a list is tokenized while another is
        scored.
        """
        intervals = self.all_intervals()
        if len(intervals) != self._told[0]:  # the header, metrics and the log ask one after the other
            of_stage: dict[str, list[Interval]] = {}
            for one in intervals:
                of_stage.setdefault(one.stage, []).append(one)
            self._told = len(intervals), {stage: covered_s(of_stage[stage]) for stage in STAGES if stage in of_stage}
        return self._told[1]


class Stage:
    """Times a block; see `RequestRecord.stage`."""

    __slots__ = ("_began_s", "_intervals", "_name")

    def __init__(self, intervals: list[Interval], name: str) -> None:
        """Begin with the block."""
        self._intervals, self._name, self._began_s = intervals, name, 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._began_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End, also by an error."""
        self._intervals.append(Interval(self._name, self._began_s, time.monotonic()))


def covered_s(intervals: Iterable[Interval]) -> float:
    """Seconds that are within at least one of some intervals."""
    intervals = list(intervals)
    if len(intervals) == 1:  # most stages come once
        return intervals[0].ended_s - intervals[0].began_s
    covered_s, until_s = 0.0, float("-inf")
    for _, began_s, ended_s in sorted(intervals, key=lambda one: one.began_s):
        covered_s += max(0.0, ended_s - max(began_s, until_s))
        until_s = max(until_s, ended_s)
    return covered_s


request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set per request in an ingress and per shard in a replica; tasks started there have it too. Empty: none."""
