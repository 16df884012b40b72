"""Settings of the playground: `args` of its own application in serve_config.yaml."""

from __future__ import annotations

from pydantic import Field, field_validator

from reranker.config.base import Group


class UIConfig(Group):
    """The playground ([playground](playground.md)): `args` of its own application, beside the service's."""

    service_url: str | None = None
    """Where the page's own service is, for a playground on another machine than the ingress. None: on this one, at
    Serve's own address."""
    services: dict[str, str] = Field(default_factory=dict)
    """Other services to compare with, by name: their URLs. A visitor's key goes to the one that is chosen."""

    @field_validator("service_url", "services")
    @classmethod
    def _are_urls(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for url in [value] if isinstance(value, str) else (value or {}).values():
            if not url.startswith(("http://", "https://")):
                raise ValueError("a URL must begin with http:// or https://")
        return value
