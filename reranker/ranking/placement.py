"""Which replica gets which shard: what every replica has to do, as one ingress replica sees it.

Our own shards are counted exactly, from the moment one is given a replica until its answer is here. What other ingress
replicas have sent is known from what a replica last said of its load, less what it has done since. Pure but for the
clock it is given; used from one event loop.

Among many replicas, one ingress replica knows of each too little and too late: by the time it sends there again, the
queue that it knew of is long done, and many ingress replicas that all know the same idle ones all send there. So a list
is offered replicas in turn, and only those are passed by that have far more to do than the others: join below threshold
(Zhou et al. 2017), in the order of a ring that is the same for all ingress replicas. Figures, beside round robin, which
does not notice a slow replica, and drawing at random: docs/scaling.md.
"""

from __future__ import annotations

import heapq
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from reranker.types import ReplicaLoad

_KNOWN = 32
"""Up to so many replicas, a list is offered all of them, with what each has to do; more are offered in turn."""
_TOO_BUSY = 2.0
"""What has more to do than so many times the average is passed by."""
_SUMS_S = 0.05
"""So old may sums over many replicas be: adding up a thousand takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The replicas that one list is offered."""

    replicas: Sequence[str]
    loads: Sequence[int]
    """Tokens that each of them has to do, as far as that is known; in a large fleet the average, for all of them."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one shard may go, and where it went. Kept up by `Placement.send`."""

    used: Counter[str]
    """Shards of the whole list that each replica has got, answered or not; one counter for all routes of a list."""
    shortlist: Sequence[str] = ()
    """The replicas that its list was offered. If none of them is left: any replica."""
    tried: set[str] = field(default_factory=set)
    """Replicas that this shard was sent to. They get it again only if there is no other."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """All live replicas together, at a moment."""

    at_s: float
    elsewhere: ReplicaLoad
    mean_load: float


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    """A shard that is at a replica."""

    replica: str
    tokens: int


@dataclass(slots=True)
class _Replica:
    ours: int = 0
    """Tokens that we have sent and not got back."""
    others: int = 0
    """Tokens of other ingress replicas, when it was last heard of."""
    heard_s: float = 0.0
    tokens_per_s: float | None = None
    model: str | None = None


class Placement:
    """Knows what every replica has to do, and gives each shard its replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int | None = None) -> None:
        """Start knowing no replica.

        Args:
            clock: Gives seconds.
            seed: Of the draw between equally loaded replicas. None: another one in each process, so that several
                ingress replicas do not all start with the same.
        """
        self.sender = uuid.uuid4().hex
        """The name under which replicas count what was sent from here."""
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - a draw, not a secret
        self._replicas: dict[str, _Replica] = {}
        self._live: frozenset[str] = frozenset()
        self._ring: tuple[str, ...] = ()
        self._turn = self._random.randrange(1_000_000)  # where in the ring it begins
        self._sums: _Sums | None = None
        self._sent: set[_Sent] = set()

    def set_live(self, replicas: Iterable[str]) -> None:
        """Take over the set of replicas that can take a shard."""
        self._live = frozenset(replicas)
        self._ring = tuple(sorted(self._live))
        self._sums = None
        for name in self._ring:
            self._replicas.setdefault(name, _Replica())
        self._forget_the_dead()

    def note_load(self, replica: str, load: ReplicaLoad) -> None:
        """Note what a replica says of its load.

        What it counts as ours is left out: its word may be old, and our own count is exact.
        """
        known = self._replicas.get(replica)
        if known is not None:
            known.others = sum(tokens for sender, tokens in load.in_hand.items() if sender != self.sender)
            known.heard_s = self._clock()
            known.tokens_per_s = load.tokens_per_s

    def note_model(self, replica: str, model: str) -> None:
        """Note what a replica's engine holds; see `reranker.model.checkpoint.model_identity`."""
        known = self._replicas.get(replica)
        if known is not None:
            known.model = model

    @property
    def model(self) -> str | None:
        """What the engines of all live replicas hold. None: different things, or none of them has said yet."""
        models = {self._replicas[name].model for name in self._ring} - {None}
        return models.pop() if len(models) == 1 else None

    @property
    def live_replicas(self) -> int:
        """How many can take a shard."""
        return len(self._ring)

    @property
    def shards_in_flight(self) -> int:
        """Shards that are at a replica and not answered."""
        return len(self._sent)

    def shortlist(self, shards: int) -> Shortlist:
        """Offer a list the replicas it may go to: all of a few, and of many the next in turn.

        Args:
            shards: How many it may be cut into; at least 1. So many are offered if there are as many.
        """
        ring = self._ring
        if len(ring) <= max(_KNOWN, shards):
            return Shortlist(ring, [self._load(name) for name in ring])
        mean = self._summed().mean_load
        offered: list[str] = []
        for passed in range(len(ring)):
            name = ring[(self._turn + passed) % len(ring)]
            if self._load(name) <= _TOO_BUSY * mean:
                offered.append(name)
                if len(offered) == shards:
                    break
        self._turn = (self._turn + passed + 1) % len(ring)
        if len(offered) < shards:
            offered = heapq.nsmallest(shards, ring, key=self._load)
        return Shortlist(offered, [int(mean)] * shards)

    @contextmanager
    def send(self, route: Route, tokens: int) -> Iterator[str]:
        """Give a shard the best replica, and count its work there for as long as the block lasts.

        The best is one that the shard's list does not use yet, the least loaded first.

        Args:
            route: Where it may go; noted there at once, so that the next shard finds it counted.
            tokens: Its work.

        Raises:
            LookupError: No replica is live.
        """
        offered = [name for name in route.shortlist if name in self._live and name not in route.tried]
        if not self._live:
            raise LookupError("no replica is live")
        name = min(
            offered or self._ring,
            key=lambda name: (name in route.tried, route.used[name], self._load(name), self._random.random()),
        )
        sent = _Sent(name, tokens)
        self._sent.add(sent)
        replica = self._replicas[name]
        replica.ours += tokens
        route.used[name] += 1
        route.tried.add(name)
        try:
            yield name
        finally:
            self._sent.remove(sent)
            replica.ours -= tokens
            self._forget_the_dead()

    def elsewhere(self) -> ReplicaLoad:
        """Of all live replicas together: what they have to do for others, and their speed."""
        return self._summed().elsewhere

    def check_integrity(self) -> None:
        """Raise RuntimeError if a replica's tokens are not those of the shards that are there."""
        ours: Counter[str] = Counter()
        for sent in self._sent:
            ours[sent.replica] += sent.tokens
        for name, replica in self._replicas.items():
            if replica.ours != ours[name]:
                raise RuntimeError(f"{replica.ours} tokens counted at a replica, {ours[name]} sent. This is a bug.")

    def _summed(self) -> _Sums:
        now_s = self._clock()
        last = self._sums
        if last is not None and len(self._ring) > _KNOWN and now_s - last.at_s < _SUMS_S:
            return last
        live = [self._replicas[name] for name in self._ring]
        speeds = [one.tokens_per_s for one in live if one.tokens_per_s is not None]
        # Of a replica that has not worked yet, the best guess is what the others do.
        speed = sum(speeds) / len(speeds) * len(live) if speeds else None
        others = sum(self._others(one) for one in live)
        mean = (others + sum(one.ours for one in live)) / max(1, len(live))
        self._sums = _Sums(now_s, ReplicaLoad(others, speed), mean)
        return self._sums

    def _load(self, name: str) -> int:
        replica = self._replicas[name]
        return replica.ours + self._others(replica)

    def _others(self, replica: _Replica) -> int:
        done = (replica.tokens_per_s or 0) * (self._clock() - replica.heard_s)
        return max(0, int(replica.others - done))

    def _forget_the_dead(self) -> None:
        for name in [name for name, one in self._replicas.items() if name not in self._live and not one.ours]:
            del self._replicas[name]
