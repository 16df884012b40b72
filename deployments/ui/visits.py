"""What travels between the ingress and the playground's application: a browser's request, and parts of its answer."""

from __future__ import annotations

from dataclasses import dataclass

UI_PATH = "/ui"
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to a path of the playground."""

    method: str
    path: str
    """From `UI_PATH` on."""
    query: bytes
    headers: Headers
    body: bytes
    scheme: str
    """"http" or "https", as the ingress was asked."""


@dataclass(frozen=True, slots=True)
class Head:
    """How an answer begins; pieces of its body, `bytes`, follow."""

    status: int
    headers: Headers
