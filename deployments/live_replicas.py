"""How many replicas each deployment has, as the routers of this process see it. Costs no call.

A module of its own: Ray pickles the router's module by value, so a variable there would exist twice.
"""

from __future__ import annotations

_counts: dict[str, int] = {}


def publish(deployment: str, replicas: int) -> None:
    """Called by a router whenever Serve's controller tells it of another set of running replicas."""
    _counts[deployment] = replicas


def count(deployment: str) -> int:
    """Replicas that can take a shard now; 0 until a handle of this process was used."""
    return _counts.get(deployment, 0)
