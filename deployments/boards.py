"""What this process knows of the engine replicas of each deployment: how to call them, and the load board over them.

A module of its own: Ray pickles the router's module by value, so a variable there would exist twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray.serve.request_router import RunningReplica

from reranker.placement import LoadBoard


@dataclass(slots=True)
class Replicas:
    """The replicas of one deployment; none is known until a handle of this process was used."""

    board: LoadBoard = field(default_factory=LoadBoard)
    _by_name: dict[str, RunningReplica] = field(default_factory=dict)
    _some: asyncio.Event = field(default_factory=asyncio.Event)

    def update(self, replicas: dict[str, RunningReplica]) -> None:
        """Take over those that are running now, by name."""
        self._by_name = dict(replicas)
        self.board.set_live(replicas)
        if replicas:
            self._some.set()
        else:
            self._some.clear()

    def lose(self, name: str) -> None:
        """Note that one has died, before Serve says so."""
        self.board.lose(name)
        self._by_name.pop(name, None)
        if not self._by_name:
            self._some.clear()

    async def running(self) -> Mapping[str, RunningReplica]:
        """Those that are running, by name; waits for Serve to start one if there is none."""
        await self._some.wait()
        return self._by_name


_deployments: dict[str, Replicas] = {}


def replicas_of(deployment: str) -> Replicas:
    """Those of a deployment, the same object for its router and for whoever sends it shards."""
    return _deployments.setdefault(deployment, Replicas())
