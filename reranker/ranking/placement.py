"""Which replica gets which shard: what every replica has to do, as one ingress replica sees it.

Our own shards are counted exactly, until their answers are here. Those of other ingress replicas are known from what a
replica last said of its load, less what it has done since. To be used from one event loop.

What is known of many replicas is old by the next sending, and all ingress replicas would send to the same idle ones.
So a list is offered replicas in turn, without those that have far more to do than the others: join below threshold
(Zhou et al. 2017), on a ring that is the same for all. Figures, beside round robin and random: docs/scaling.md.

While a deployment changes the model, replicas hold different ones. A list goes to those of one model only, and the
lists of an ingress to its own: docs/architecture.md, "When something breaks".
"""

from __future__ import annotations

import heapq
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from reranker.types import ReplicaLoad, ServedModel

_KNOWN = 32  # up to so many replicas, a list is offered all of them, each with its load; more are offered in turn
_TOO_BUSY = 2.0  # a replica with more than so many times the average load is passed by
_UNKNOWN = ServedModel()
_SUSPECTED_S = 5.0  # who kept a shard for far too long comes after all others for so long; then it is tried with one
_TURNS = 4  # a long way counts so many times where the shard is small: nearby, lists take turns
_FAR_S = 0.02  # a way that is longer than the shortest by so much counts as work; less is noise, and all are near
_WAY_HALVES_S = 30.0  # until what is known of a way is half forgotten: nothing may have gone there since
_WAYS_S = 0.25  # the greatest age of what ways are compared by
_SUMS_S = 0.05  # the greatest age of sums over many replicas: adding up a thousand takes a millisecond


class ModelGoneError(LookupError):
    """No replica holds the model any more that a list is scored with: the list has to be scored again."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The replicas that one list is offered."""

    replicas: Sequence[str]
    loads: Sequence[int]  # tokens each has to do, as far as that is known; in a large fleet the average


@dataclass(frozen=True, slots=True)
class Route:
    """Where one shard may go, and where it went: `Placement.send` notes it."""

    used: Counter[str]  # shards of the whole list that each replica has got; one counter for all routes of a list
    shortlist: Sequence[str] = ()  # the replicas that its list is offered. If none of them is left: any replica
    tried: set[str] = field(default_factory=set)  # those that got this shard: again only if there is no other
    model: str | None = None  # identity of what its list is scored with. None: whatever new lists are


@dataclass(slots=True)
class _Replica:
    ours: int = 0  # tokens that we have sent and not got back
    others: int = 0  # tokens of other ingress replicas, at `heard_s`
    heard_s: float = 0.0
    tokens_per_s: float | None = None
    model: ServedModel = _UNKNOWN
    answered_s: float = 0.0  # last
    way_s: float = 0.0  # that shards lately took beyond their time in its engine, mostly


class Placement:
    """Knows what every replica has to do, and gives each shard its replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int | None = None) -> None:
        """Start without replicas. Without a seed, ingress replicas do not all begin with the same replica."""
        self.sender = uuid.uuid4().hex  # the name under which replicas count our shards
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - a draw, not a secret
        self._replicas: dict[str, _Replica] = {}
        self._live: frozenset[str] = frozenset()
        self.own: ServedModel | None = None  # what new lists should be scored with. None: whatever most replicas hold
        self.any_yet = False  # whether there has ever been a replica that takes our lists
        self.model: ServedModel | None = None  # what new lists are scored with. None: no replica takes them
        self._rings: dict[str, tuple[str, ...]] = {}  # the live replicas, by identity of their model
        self._ring: tuple[str, ...] = ()  # those that take new lists
        self._turn = self._random.randrange(1_000_000)  # where in the ring it begins
        self._sums: tuple[float, ReplicaLoad, float] | None = None  # when summed; `elsewhere`; mean load
        self._far: dict[str, float] = {}  # by how many seconds more than the nearest replica's others' ways are longer
        self._far_at_s = 0.0
        self._suspects: dict[str, float] = {}  # replicas that kept a shard for too long, and when they were found out
        self._sent: dict[object, tuple[str, int]] = {}  # of each shard that is not answered: replica and tokens

    def set_live(self, replicas: Iterable[str], models: Mapping[str, ServedModel] | None = None) -> None:
        """Replace the live replicas, and note the models that these say they hold."""
        self._live = frozenset(replicas)
        for name in self._live:
            self._replicas.setdefault(name, _Replica())
        for name, model in (models or {}).items():
            self._replicas[name].model = model
        self._forget_the_dead()
        self._choose()

    @property
    def own_identity(self) -> str:
        """Identity of what new lists are scored with, if that is of our own deployment; else empty."""
        ours = self.model is not None and self.own is not None and self.model.deployed == self.own.deployed
        return self.model.identity if ours and self.model is not None else ""

    def note_load(self, replica: str, load: ReplicaLoad) -> None:
        """Note what a replica says of its load, without our own shards: our count of them is exact."""
        if known := self._replicas.get(replica):
            known.others = sum(tokens for sender, tokens in load.in_hand.items() if sender != self.sender)
            known.heard_s = self._clock()
            known.tokens_per_s = load.tokens_per_s

    def note_answer(self, replica: str, load: ReplicaLoad, way_s: float = 0.0) -> None:
        """Note that a replica has answered, what it says of its load, and how long shard and answer were under way."""
        self.note_load(replica, load)
        if known := self._replicas.get(replica):
            now_s = self._clock()
            forgotten_s = self._forgotten(known, now_s)
            # Quick to rise: on a way that loses packets, most shards take no longer.
            known.way_s = forgotten_s + (way_s - forgotten_s) / (2 if way_s > forgotten_s else 8)
            known.answered_s = now_s
            self._suspects.pop(replica, None)

    def _forgotten(self, known: _Replica, now_s: float) -> float:
        """The way to a replica, as far as it is still known."""
        return known.way_s * 0.5 ** ((now_s - known.answered_s) / _WAY_HALVES_S) if known.way_s else 0.0

    def _ways(self) -> dict[str, float]:
        """Replicas whose way is longer than the shortest, and by how many seconds; looked at now and then."""
        now_s = self._clock()
        if now_s - self._far_at_s >= _WAYS_S:
            ways = {name: self._forgotten(self._replicas[name], now_s) for name in self._ring}
            nearest_s = min(ways.values(), default=0.0)
            self._far = {name: way - nearest_s for name, way in ways.items() if way - nearest_s > _FAR_S}
            self._far_at_s = now_s
        return self._far

    def _way_tokens(self, name: str) -> int:
        """What a replica's engine would do while a shard and its answer are under way, if that is long."""
        return int(self._ways().get(name, 0.0) * (self._replicas[name].tokens_per_s or 0.0))

    def suspect(self, replica: str) -> None:
        """Note that a replica does not answer in time: it may hang, while its load looks small."""
        if replica in self._replicas:
            self._suspects[replica] = self._clock()

    def suspected_s(self, replica: str) -> float:
        """When a replica was found not to answer in time. 0: never, or it has answered since."""
        return self._suspects.get(replica, 0.0)

    def _suspected(self, replica: str) -> bool:
        """Whether it should get no shard, until it answers. From time to time it gets one, to see whether it does."""
        if (since_s := self._suspects.get(replica)) is None:
            return False
        return self._clock() < since_s + _SUSPECTED_S or self._replicas[replica].ours > 0

    def answered_s(self, replica: str) -> float:
        """When a replica last answered, on the monotonic clock. 0: never."""
        known = self._replicas.get(replica)
        return known.answered_s if known else 0.0

    def expected_s(self, replica: str) -> float | None:
        """Seconds that a replica needs for all it has to do. None: no replica has worked yet."""
        speed = self._replicas[replica].tokens_per_s
        if not speed and (all_together := self._summed()[0].tokens_per_s):
            speed = all_together / len(self._ring)
        return self._load(replica) / speed if speed else None

    def note_identity(self, replica: str, identity: str) -> None:
        """Note that a replica's model is of this identity, whatever it was said to be."""
        known = self._replicas.get(replica)
        if known and known.model.identity != identity:
            known.model = ServedModel(identity)
            self._choose()

    @property
    def live_replicas(self) -> int:
        """Replicas that take new lists."""
        return len(self._ring)

    @property
    def any_idle(self) -> bool:
        """Whether a replica that takes new lists has nothing to do, as far as that is known."""
        return any(not self._load(name) for name in self._ring)

    @property
    def has_its_turn(self) -> bool:
        """Whether at least half of all live replicas hold the model of our own deployment."""
        own = self.own is not None and self.model is not None and self.model.deployed == self.own.deployed
        return own and 2 * len(self._ring) >= len(self._live)

    @property
    def shards_in_flight(self) -> int:
        return len(self._sent)

    def shortlist(self, shards: int, model: str | None = None) -> Shortlist:
        """Offer a list all of a few replicas; of many, the next in turn, one for each shard it may be cut into.

        None that is suspected, unless all are.
        ModelGoneError: no replica holds the model of this identity.
        """
        ring = self._ring if model is None else self._ring_of(model)
        if self._suspects:
            ring = tuple(one for one in ring if not self._suspected(one)) or ring
        if len(ring) <= max(_KNOWN, shards):
            return Shortlist(ring, [self._load(name) + self._way_tokens(name) for name in ring])
        _, mean = self._summed()
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
        """Give a shard a replica, and count its work there for as long as the block lasts.

        It is one that the shard's list does not use yet, the least loaded first, where a long way counts as work; those
        that are suspected come last. A small shard does not go a long way only because there is much to do nearby:
        there it waits for its turn, and not for all of that.
        ModelGoneError: no replica holds the list's model.
        """
        ring = self._ring_of(route.model)
        offered = [name for name in route.shortlist if name not in route.tried and self._holds(name, route.model)]

        def rank(name: str) -> tuple[bool, bool, int, int, float]:
            way_tokens = self._way_tokens(name)
            load = self._load(name) + way_tokens * (_TURNS if way_tokens > tokens else 1)
            return name in route.tried, self._suspected(name), route.used[name], load, self._random.random()

        name = min(offered or ring, key=rank)
        shard, replica = object(), self._replicas[name]
        self._sent[shard] = (name, tokens)
        replica.ours += tokens
        route.used[name] += 1
        route.tried.add(name)
        try:
            yield name
        finally:
            del self._sent[shard]
            replica.ours -= tokens
            self._forget_the_dead()

    def elsewhere(self) -> ReplicaLoad:
        """All replicas that take new lists together: their work for other ingress replicas, and their speed."""
        return self._summed()[0]

    def check_integrity(self) -> None:
        ours: Counter[str] = Counter()
        for name, tokens in self._sent.values():
            ours[name] += tokens
        for name, replica in self._replicas.items():
            if replica.ours != ours[name]:
                raise RuntimeError(f"{replica.ours} tokens counted at a replica, {ours[name]} sent. This is a bug.")

    def _choose(self) -> None:
        """Choose what new lists are scored with.

        That is the own deployment's, once a replica holds it, and until then one that takes the same lists: of others
        the scores would be meaningless. Of several, what most hold.
        """
        named: dict[ServedModel, list[str]] = {}
        for name in sorted(self._live):
            named.setdefault(self._replicas[name].model, []).append(name)
        self._rings = {}
        for model, names in named.items():
            self._rings[model.identity] = (*self._rings.get(model.identity, ()), *names)
        fit = list(named)
        if (own := self.own) is not None:
            takes_ours = [one for one in fit if one.takes == own.takes]
            fit = [one for one in fit if one.deployed == own.deployed] or takes_ours
        self.model = max(fit, key=lambda one: (len(named[one]), one == self.model), default=None)
        self._ring = () if self.model is None else self._rings[self.model.identity]
        self.any_yet |= bool(self._ring)
        self._sums = None

    def _holds(self, name: str, model: str | None) -> bool:
        return name in self._live and (model is None or self._replicas[name].model.identity == model)

    def _ring_of(self, model: str | None) -> tuple[str, ...]:
        ring = self._ring if model is None else self._rings.get(model, ())
        if not ring:
            raise ModelGoneError(model)
        return ring

    def _summed(self) -> tuple[ReplicaLoad, float]:
        """All replicas that take new lists, as `elsewhere` gives them, and their mean load."""
        now_s = self._clock()
        if self._sums is not None and len(self._ring) > _KNOWN and now_s - self._sums[0] < _SUMS_S:
            return self._sums[1:]
        live = [self._replicas[name] for name in self._ring]
        speeds = [one.tokens_per_s for one in live if one.tokens_per_s is not None]
        # A replica that has not worked yet is taken to be as fast as the others.
        speed = sum(speeds) / len(speeds) * len(live) if speeds else None
        others = sum(self._others(one) for one in live)
        mean = (others + sum(one.ours for one in live)) / max(1, len(live))
        self._sums = now_s, ReplicaLoad(others, speed), mean
        return self._sums[1:]

    def _load(self, name: str) -> int:
        replica = self._replicas[name]
        return replica.ours + self._others(replica)

    def _others(self, replica: _Replica) -> int:
        done = (replica.tokens_per_s or 0) * (self._clock() - replica.heard_s)
        return max(0, int(replica.others - done))

    def _forget_the_dead(self) -> None:
        for name in [name for name, one in self._replicas.items() if name not in self._live and not one.ours]:
            del self._replicas[name]
            self._suspects.pop(name, None)
