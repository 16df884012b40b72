"""Which request is being worked on: its id, for the log lines of whatever is called on the way."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set per request in an ingress and per shard in a replica; tasks started there have it too. Empty: none."""
