"""What `reranker verify` found, kept where the service finds it: a file for each model's identity, in the cache folder.

The identity is of all that can change a score, so what was found of another state of a model is never shown.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict


@with_config(ConfigDict(extra="forbid", strict=True))
class Verified(TypedDict):
    """What was found, and when."""

    date: str  # UTC
    passed: bool
    against: str  # the library, and its version
    engine: str  # what was compared with it: build, type of numbers, device
    pairs: int
    largest_difference: float | None  # of two logits. None: one was no number, or token ids differ


_FORM = TypeAdapter(Verified)


def cache_folder() -> Path:
    """Where this user's commands and services keep what they can do without."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reranker"


def keep(identity: str, found: Verified) -> Path:
    """Keep what was found of the model of this identity; OSError: it cannot be written."""
    path = _path(identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    new.replace(path)  # a service may be reading it
    return path


def kept(identity: str) -> Verified | None:
    """Read what was found; None: it was never verified, not on this machine, or in another state."""
    with contextlib.suppress(OSError, ValueError):  # of an engine that says no identity, there is no file either
        return _FORM.validate_json(_path(identity).read_bytes())
    return None


def _path(identity: str) -> Path:
    return cache_folder() / "verified" / f"{identity}.json"
