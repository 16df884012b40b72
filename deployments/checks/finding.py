"""What a check finds: where, what, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from reranker.marked_yaml import Path


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
