"""Which replica gets which shard: the books on what every replica has to do, as one ingress replica sees it.

Our own shards are counted exactly, from the moment one is given a replica until its answer is here. What other ingress
replicas have sent is known from what a replica last said of its load, less what it has done since. Pure but for the
clock it is given; used from two threads, the application's and Ray's router's.

Among many replicas, one ingress replica knows of each too little and too late: by the time it sends there again, the
queue that it knew of is long done, and many ingress replicas that all know the same idle ones all send there. So a list
is shown replicas in turn, and the board only passes by those that have far more to do than the others: join below
threshold (Zhou et al. 2017), in the order of a ring that is the same for all ingress replicas. Figures, beside round
robin, which does not notice a slow replica, and drawing at random: docs/scaling.md.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from reranker.record import Attempt
from reranker.types import ReplicaLoad

_KNOWN = 32
"""Up to so many replicas, a list is shown all of them, with what each has to do; more are shown in turn."""
_TOO_BUSY = 2.0
"""What has more to do than so many times the average is passed by."""
_OVERVIEW_S = 0.05
"""So old may sums over many replicas be: adding up a thousand takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The replicas that one list is shown."""

    names: Sequence[str]
    loads: Sequence[int]
    """Tokens that each of them has to do, as far as that is known; in a large fleet the average, for all of them."""


@dataclass(frozen=True, slots=True)
class _Overview:
    """All live replicas together, at a moment."""

    at_s: float
    elsewhere: ReplicaLoad
    mean_load: float


@dataclass(frozen=True, slots=True)
class Route:
    """Where one shard may go: who has got shards of its list, and where it was sent already. Kept up by `choose`."""

    used: Counter[str]
    """Shards of the whole list that each replica has got, answered or not; one counter for all routes of a list."""
    among: Sequence[str] = ()
    """The replicas that its list was shown. None, or none that is left: any replica."""
    tried: set[str] = field(default_factory=set)
    """Replicas that this shard was sent to; taken again only if there is no other."""
    attempt: Attempt = field(default_factory=Attempt)
    """The record of this sending; `choose` notes the replica there."""


@dataclass(slots=True)
class Assignment:
    """A shard on its way: to which replica, if one is chosen already."""

    number: int
    route: Route
    tokens: int
    replica: str | None = None


@dataclass(slots=True)
class _Replica:
    ours: int = 0
    """Tokens that we have sent and not got back."""
    others: int = 0
    """Tokens of other ingress replicas, when it was last heard of."""
    heard_s: float = 0.0
    tokens_per_s: float | None = None
    model: str | None = None


class LoadBoard:
    """What every replica has to do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int | None = None) -> None:
        """Start knowing no replica.

        Args:
            clock: Gives seconds.
            seed: Of the draw between equally loaded replicas. None: another one in each process, so that several
                ingress replicas do not all start with the same.
        """
        self.name = uuid.uuid4().hex
        """Under which replicas keep apart what was sent from here."""
        self._lock = threading.Lock()
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - a draw, not a secret
        self._replicas: dict[str, _Replica] = {}
        self._live: set[str] = set()
        self._ring: tuple[str, ...] = ()
        self._turn = self._random.randrange(1_000_000)  # where it begins
        self._overview: _Overview | None = None
        self._assignments: dict[int, Assignment] = {}
        self._numbers = 0

    def set_live(self, replicas: Iterable[str]) -> None:
        """Take over the set of replicas that can take a shard."""
        with self._lock:
            self._live = set(replicas)
            self._changed()
            for name in self._live:
                self._replicas.setdefault(name, _Replica())
            self._forget_the_dead()

    def hear(self, replica: str, load: ReplicaLoad) -> None:
        """Note what a replica says of its load.

        It had better say who sent what: its word may be old, and our own work, done or dropped since, would be taken
        for that of others.
        """
        with self._lock:
            books = self._replicas.get(replica)
            if books is not None:
                if load.in_hand is None:
                    books.others = max(0, load.pending_tokens - books.ours)
                else:
                    books.others = sum(tokens for sender, tokens in load.in_hand.items() if sender != self.name)
                books.heard_s = self._clock()
                books.tokens_per_s = load.tokens_per_s

    def identify(self, replica: str, model: str) -> None:
        """Note what a replica's engine holds; see `reranker.model.checkpoint.model_identity`."""
        with self._lock:
            books = self._replicas.get(replica)
            if books is not None:
                books.model = model

    @property
    def model(self) -> str | None:
        """What the engines of all live replicas hold. None: different things, or none of them has said yet."""
        with self._lock:
            models = {self._replicas[name].model for name in self._live} - {None}
        return models.pop() if len(models) == 1 else None

    @contextmanager
    def shard(self, route: Route, tokens: int) -> Iterator[Assignment]:
        """Keep books on one shard for as long as the block lasts; `choose` gives it its replica.

        Args:
            route: Where it may go.
            tokens: Its work.
        """
        with self._lock:
            self._numbers += 1
            assignment = Assignment(self._numbers, route, tokens)
            self._assignments[assignment.number] = assignment
        try:
            yield assignment
        finally:
            with self._lock:
                del self._assignments[assignment.number]
                self._unbook(assignment)
                self._forget_the_dead()

    def choose(self, number: int, candidates: Collection[str]) -> str:
        """Give a shard the best of some replicas: one its list does not use yet, the least loaded first.

        A second call for the same shard takes back the first choice.

        Args:
            number: The assignment's; one that is not known (any more) gets any replica.
            candidates: Not empty.
        """
        with self._lock:
            assignment = self._assignments.get(number)
            if assignment is None:
                return self._random.choice(sorted(candidates))
            route = assignment.route
            if assignment.replica is not None:
                route.used[assignment.replica] -= 1
                route.tried.discard(assignment.replica)
                self._unbook(assignment)
            shown = [name for name in route.among if name in candidates and name not in route.tried]
            best = min(
                shown or candidates,
                key=lambda name: (name in route.tried, route.used[name], self._load(name), self._random.random()),
            )
            assignment.replica = best
            route.used[best] += 1
            route.tried.add(best)
            route.attempt.replica = best
            self._replicas.setdefault(best, _Replica()).ours += assignment.tokens
            return best

    @property
    def live_replicas(self) -> int:
        """How many can take a shard."""
        return len(self._ring)

    def survey(self, shards: int) -> Survey:
        """Show a list the replicas it may go to: all of a few, and of many the next in turn.

        Args:
            shards: How many it may be cut into; at least 1. So many are shown if there are as many.
        """
        with self._lock:
            ring = self._ring
            if len(ring) <= max(_KNOWN, shards):
                return Survey(ring, [self._load(name) for name in ring])
            mean = self._sums().mean_load
            shown: list[str] = []
            for passed in range(len(ring)):
                name = ring[(self._turn + passed) % len(ring)]
                if self._load(name) <= _TOO_BUSY * mean:
                    shown.append(name)
                    if len(shown) == shards:
                        break
            self._turn = (self._turn + passed + 1) % len(ring)
            if len(shown) < shards:
                shown = heapq.nsmallest(shards, ring, key=self._load)
            return Survey(shown, [int(mean)] * shards)

    def elsewhere(self) -> ReplicaLoad:
        """Of all live replicas together: what they have to do for others, and their speed."""
        with self._lock:
            return self._sums().elsewhere

    @property
    def shards_in_flight(self) -> int:
        """Shards whose answer is not here."""
        return len(self._assignments)

    def check_integrity(self) -> None:
        """Raise RuntimeError if a replica's tokens are not those of the shards it has."""
        with self._lock:
            ours: Counter[str] = Counter()
            for assignment in self._assignments.values():
                if assignment.replica is not None:
                    ours[assignment.replica] += assignment.tokens
            for name, books in self._replicas.items():
                if books.ours != ours[name]:
                    raise RuntimeError(f"{books.ours} tokens counted at a replica, {ours[name]} sent. This is a bug.")

    def _sums(self) -> _Overview:
        now_s = self._clock()
        last = self._overview
        if last is not None and len(self._ring) > _KNOWN and now_s - last.at_s < _OVERVIEW_S:
            return last
        live = [self._replicas[name] for name in self._ring]
        speeds = [one.tokens_per_s for one in live if one.tokens_per_s is not None]
        # Of a replica that has not worked yet, the best guess is what the others do.
        speed = sum(speeds) / len(speeds) * len(live) if speeds else None
        others = sum(self._others(one) for one in live)
        mean = (others + sum(one.ours for one in live)) / max(1, len(live))
        self._overview = _Overview(now_s, ReplicaLoad(others, speed), mean)
        return self._overview

    def _changed(self) -> None:
        self._ring = tuple(sorted(self._live))
        self._overview = None

    def _load(self, name: str) -> int:
        books = self._replicas.get(name)
        return books.ours + self._others(books) if books else 0

    def _others(self, books: _Replica) -> int:
        done = (books.tokens_per_s or 0) * (self._clock() - books.heard_s)
        return max(0, int(books.others - done))

    def _unbook(self, assignment: Assignment) -> None:
        if assignment.replica is not None:
            self._replicas[assignment.replica].ours -= assignment.tokens
            assignment.replica = None

    def _forget_the_dead(self) -> None:
        for name in [name for name, books in self._replicas.items() if name not in self._live and not books.ours]:
            del self._replicas[name]
