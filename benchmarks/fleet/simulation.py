"""The imagined fleet: engines that compute in steps, ingresses that cut and place lists, failures, model loads.

What decides is the service's own code, imported: `planning.plan`, `placement.Placement`, `engine.fairness.FairQueue`,
`scaling.ReplicaScaling`. What is imagined is time: an engine's step, a hop, a model's load.
"""

import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from deployments.autoscaling import ReplicaScaling, Report
from reranker.config import PlanningConfig, PrioritiesConfig
from reranker.engine.fairness import FairQueue, Turn
from reranker.ranking.placement import Placement, Route
from reranker.ranking.planning import most_shards, plan
from reranker.types import ReplicaLoad

_PLANNING = PlanningConfig()
_WEIGHT = PrioritiesConfig().interactive.weight
SPEED = 40_000.0
"""Tokens a second, of the order of a 0.6B model on an L4."""
STEP_TOKENS, STEP_S = 2_000, 0.005
HOP_S = 0.003


@dataclass(slots=True, eq=False)
class RankedList:
    """A list on its way."""

    arrived_s: float
    pair_tokens: Sequence[int]
    done_s: float | None = None
    left: int = 0
    """Shards without an answer."""


@dataclass(slots=True, eq=False)
class MovingShard:
    """A shard: its list, its pairs, and its sending."""

    of: RankedList
    costs: Sequence[int]
    route: Route
    ingress: int
    left: int = 0
    sending: AbstractContextManager[str] | None = None

    @property
    def tokens(self) -> int:
        """Its work."""
        return sum(self.costs)


@dataclass(slots=True, eq=False)
class Replica:
    """An engine that steps."""

    name: str
    queue: FairQueue[MovingShard]
    shards: set[MovingShard] = field(default_factory=set)
    in_hand: Counter[str] = field(default_factory=Counter)
    speed: float = SPEED
    pending: int = 0
    arrived: int = 0
    stepping: bool = False
    dead: bool = False
    leaving: bool = False

    def load(self) -> ReplicaLoad:
        """What it says with every answer."""
        return ReplicaLoad(self.pending, self.speed, dict(+self.in_hand))


@dataclass(frozen=True, slots=True)
class Strategy:
    """How lists get to replicas."""

    placement: str = "ours"
    """"ours", "random", "two choices" (the emptier of two, by shards), "round robin"."""
    split: bool = True
    """Cut lists; False: a whole list to one replica, as a load balancer does."""
    fair: bool = True
    """Pairs by turns; False: first come, first served."""


class Fleet:
    """The simulation. Drive it with `at` and `run`."""

    def __init__(
        self, replicas: int, strategy: Strategy, ingresses: int = 2, seed: int = 1, slow_share: float = 0.0
    ) -> None:
        """Start with so many idle replicas, of which this share, drawn at random, has half the speed."""
        self.now_s = 0.0
        self.strategy = strategy
        self.random = random.Random(seed)
        self.done: list[RankedList] = []
        self.replica_s = 0.0
        """Seconds that replicas existed, those that load their model included."""
        self.loading = 0
        self._slow_share = slow_share
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._placements = [Placement(lambda: self.now_s, seed + number) for number in range(ingresses)]
        self._ongoing = [Counter[str]() for _ in range(ingresses)]
        self._turns = [self.random.randrange(1_000) for _ in range(ingresses)]
        self.live: dict[str, Replica] = {}
        self._names: list[str] = []
        self._waiting: deque[MovingShard] = deque()
        for _ in range(replicas):
            self._add()
        self.at(1.0, self._tell_all)

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        """Do something at a moment."""
        heapq.heappush(self._events, (time_s, next(self._numbers), what))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until_s:
            time_s, _, what = heapq.heappop(self._events)
            self._pass(time_s)
            what()
        self._pass(until_s)

    def _pass(self, time_s: float) -> None:
        self.replica_s += (time_s - self.now_s) * (len(self.live) + self.loading)
        self.now_s = time_s

    def send(self, pair_tokens: Sequence[int]) -> None:
        """A list arrives at one of the ingresses."""
        ranked = RankedList(self.now_s, pair_tokens)
        ingress = self.random.randrange(len(self._placements))
        shortlist = self._placements[ingress].shortlist(most_shards(pair_tokens, _PLANNING))
        whole = [tuple(range(len(pair_tokens)))]
        shards = plan(pair_tokens, shortlist.loads or [0], _PLANNING) if self.strategy.split else whole
        ranked.left = len(shards)
        used = Counter[str]()
        for indices in shards:
            costs = [pair_tokens[index] for index in indices]
            self._place(MovingShard(ranked, costs, Route(used, shortlist.replicas), ingress))

    def _place(self, shard: MovingShard) -> None:
        if not self._names:
            self._waiting.append(shard)
            return
        route = shard.route
        if (chosen := self._chosen(shard)) is not None:
            route = replace(route, shortlist=[chosen], tried=set())
        shard.sending = self._placements[shard.ingress].send(route, shard.tokens)
        name = shard.sending.__enter__()
        self._ongoing[shard.ingress][name] += 1
        self.at(self.now_s + HOP_S, lambda: self._arrive(shard, name))

    def _chosen(self, shard: MovingShard) -> str | None:
        """Choose as the strategy does. None: the service's own placement chooses."""
        placement = self.strategy.placement
        if placement == "ours":
            return None
        if placement == "round robin":
            self._turns[shard.ingress] += 1
            return self._names[self._turns[shard.ingress] % len(self._names)]
        if placement == "random":
            return self.random.choice(self._names)
        pair = self.random.sample(self._names, min(2, len(self._names)))
        return min(pair, key=lambda name: self._ongoing[shard.ingress][name])

    def _arrive(self, shard: MovingShard, name: str) -> None:
        replica = self.live.get(name)
        if replica is None:
            self._close(shard, name)
            self._place(shard)
            return
        shard.left = len(shard.costs)
        replica.shards.add(shard)
        replica.pending += shard.tokens
        replica.arrived += shard.tokens
        replica.in_hand[self._placements[shard.ingress].sender] += shard.tokens
        replica.queue.push(shard, shard.costs, _WEIGHT)
        if not replica.stepping:
            self._step(replica)

    def _close(self, shard: MovingShard, name: str) -> None:
        self._ongoing[shard.ingress][name] -= 1
        if shard.sending is not None:
            shard.sending.__exit__(None, None, None)
            shard.sending = None

    def _step(self, replica: Replica) -> None:
        batch: list[Turn[MovingShard]] = []
        tokens = 0
        while tokens < STEP_TOKENS and (turn := replica.queue.pop()) is not None:
            batch.append(turn)
            tokens += turn.cost
        replica.stepping = bool(batch)
        if batch:
            took_s = STEP_S + tokens / replica.speed
            self.at(self.now_s + took_s, lambda: self._stepped(replica, batch))
        elif replica.leaving and not replica.shards:
            self._remove(replica)

    def _stepped(self, replica: Replica, batch: list[Turn[MovingShard]]) -> None:
        if replica.dead:
            return
        for turn in batch:
            shard = turn.flow
            replica.pending -= turn.cost
            shard.left -= 1
            if not shard.left:
                replica.shards.discard(shard)
                replica.in_hand[self._placements[shard.ingress].sender] -= shard.tokens
                self.at(self.now_s + HOP_S, lambda shard=shard: self._answered(shard, replica))  # type: ignore[misc]
        self._step(replica)

    def _answered(self, shard: MovingShard, replica: Replica) -> None:
        self._placements[shard.ingress].note_load(replica.name, replica.load())
        self._close(shard, replica.name)
        shard.of.left -= 1
        if not shard.of.left:
            shard.of.done_s = self.now_s
            self.done.append(shard.of)

    def _tell_all(self) -> None:
        for replica in self.live.values():
            for placement in self._placements:
                placement.note_load(replica.name, replica.load())
        self.at(self.now_s + 1, self._tell_all)

    def _add(self) -> None:
        name = f"replica-{next(self._numbers)}"
        speed = SPEED / 2 if self._slow_share and self.random.random() < self._slow_share else SPEED
        self.live[name] = Replica(name, FairQueue(by_arrival=not self.strategy.fair), speed=speed)
        self._update()

    def start(self, load_s: float) -> None:
        """Start a replica, which loads its model first."""
        self.loading += 1

        def ready() -> None:
            self.loading -= 1
            self._add()

        self.at(self.now_s + load_s, ready)

    def stop_one(self) -> None:
        """Let the least loaded replica finish what it has, and go."""
        staying = [replica for replica in self.live.values() if not replica.leaving]
        if staying:
            replica = min(staying, key=lambda one: one.pending)
            replica.leaving = True
            self._update()
            if not replica.stepping and not replica.shards:
                self._remove(replica)

    def kill_one(self) -> None:
        """A replica dies; its shards are sent again."""
        if self.live:
            replica = self.live[self.random.choice(list(self.live))]
            replica.dead = True
            self._remove(replica)
            for shard in list(replica.shards):
                self._close(shard, replica.name)
                self._place(shard)

    def _remove(self, replica: Replica) -> None:
        self.live.pop(replica.name, None)
        self._update()

    def _update(self) -> None:
        self._names = [name for name, replica in self.live.items() if not replica.leaving]
        for placement in self._placements:
            placement.set_live(self._names)
        while self._names and self._waiting:
            self._place(self._waiting.popleft())

    def reports(self) -> dict[str, Report | None]:
        """What running replicas say to the policy."""
        running = {name: self.live[name] for name in self._names}
        return {name: Report(self.now_s, one.pending, one.arrived, one.speed) for name, one in running.items()}

    def scale(self, wanted: int, load_s: float) -> None:
        """Have so many replicas, those that load included."""
        have = len(self._names) + self.loading
        for _ in range(wanted - have):
            self.start(load_s)
        for _ in range(have - wanted):
            self.stop_one()

    def autoscale(self, scaling: ReplicaScaling, bounds: tuple[int, int], load_s: float) -> None:
        """Decide now, and each second from now on."""
        target = len(self._names) + self.loading
        decision = scaling.decide(self.reports(), target, self.now_s)
        self.scale(min(max(decision.replicas, bounds[0]), bounds[1]), load_s)
        self.at(self.now_s + 1, lambda: self.autoscale(scaling, bounds, load_s))

    def autoscale_by_count(
        self,
        per_replica: float,
        bounds: tuple[int, int],
        load_s: float,
        *,
        look_s: int = 30,
        up_s: float = 30,
        down_s: float = 600,
    ) -> None:
        """Ray's rule: the mean number of shards over a time, up and down after wanting it for a time; by default Ray's.

        Written again, as Ray's own reads the wall clock (ray/serve/autoscaling_policy.py, 2.60).
        """
        counts: deque[int] = deque(maxlen=look_s)
        since: dict[str, float] = {}

        def decide() -> None:
            counts.append(sum(len(replica.shards) for replica in self.live.values()))
            target = len(self._names) + self.loading
            wanted = min(max(math.ceil(sum(counts) / (len(counts) * per_replica)), bounds[0]), bounds[1])
            direction = "up" if wanted > target else "down" if wanted < target else ""
            for other in {"up", "down"} - {direction}:
                since.pop(other, None)
            if direction and self.now_s - since.setdefault(direction, self.now_s) >= (
                up_s if direction == "up" else down_s
            ):
                since.pop(direction)
                self.scale(wanted, load_s)
            self.at(self.now_s + 1, decide)

        decide()
