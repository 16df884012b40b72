"""Settings of who may use the service."""

from __future__ import annotations

from reranker.config.base import Group


class AccessConfig(Group):
    """Who may use the service: those with an API key, if there are any keys ([keys](keys.md))."""

    keys_file: str | None = None
    """A file with API keys, read again when it changes. The environment, RERANKER_API_KEYS, may hold some too."""
    allow_anonymous: bool = False
    """Serve an address other than the loopback without any keys. It is refused otherwise."""
    open_metrics: bool = False
    """Answer `GET /metrics` without a key, where the network keeps others out. Otherwise, where there are keys, it
    needs one with `metrics: true` or `admin: true`."""
