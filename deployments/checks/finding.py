"""What a check finds: where, what, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.checks.marked_yaml import Path

YAML = Mapping[str, Any]
"""What was read from a file: every type."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    path: Path
    problem: str
    """What is wrong, without the place."""
    remedy: str
    """What to do, as a sentence."""
    breaks: bool = False
    """The document has not the form that further checks rely on."""


def value_of(settings: YAML, key: str, default: float) -> float:
    """A number that is set, or what it is where it is not."""
    value: float | None = settings.get(key)
    return default if value is None else value
