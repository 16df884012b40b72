"""What this process knows of the engine replicas of each deployment: how to call them, and the load board over them.

A module of its own: Ray pickles the router's module by value, so a variable there would exist twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ray.serve.request_router import RunningReplica

from reranker.placement import LoadBoard


@dataclass(slots=True)
class Replicas:
    """The replicas of one deployment; none is known until a handle of this process was used."""

    board: LoadBoard = field(default_factory=LoadBoard)
    by_name: dict[str, RunningReplica] = field(default_factory=dict)


_deployments: dict[str, Replicas] = {}


def replicas_of(deployment: str) -> Replicas:
    """Those of a deployment, the same object for its router and for whoever sends it shards."""
    return _deployments.setdefault(deployment, Replicas())
