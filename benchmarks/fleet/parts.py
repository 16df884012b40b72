"""What the imagined fleet is made of: lists, shards, engines; and how lists get to engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from reranker.engine.fairness import FairQueue
from reranker.ranking.placement import Route
from reranker.types import ReplicaLoad

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
class ShardOnItsWay:
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
    queue: FairQueue[ShardOnItsWay]
    shards: set[ShardOnItsWay] = field(default_factory=set)
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
