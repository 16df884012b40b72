"""What this process knows of the engine replicas of each deployment: the connections to them, and their load board.

A module of its own: Ray pickles the router's module by value, so a variable there would exist twice.
"""

from __future__ import annotations

import os

from reranker.transport.links import Links
from reranker.transport.tls import tls_context

_deployments: dict[str, Links] = {}


def links_of(deployment: str) -> Links:
    """Those of a deployment, the same object for its router and for whoever sends it shards."""
    if deployment not in _deployments:
        _deployments[deployment] = Links(tls_context(os.environ, server=False))
    return _deployments[deployment]
