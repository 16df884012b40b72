"""The load board of each deployment, one per process: shared by its router and by whoever sends it shards.

A module of its own: Ray pickles the router's module by value, so a variable there would exist twice.
"""

from __future__ import annotations

from reranker.placement import LoadBoard

_boards: dict[str, LoadBoard] = {}


def board_of(deployment: str) -> LoadBoard:
    """The board of a deployment; it knows no replica until a handle of this process was used."""
    return _boards.setdefault(deployment, LoadBoard())
