"""Read the two question-passage collections and hold one document in twelve out of everything but the final table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

COLLECTIONS = {"en": "medquad.jsonl", "zh": "cmrc.jsonl"}

# Passages are compared as windows: a long answer would otherwise win or lose by its length alone. Characters.
WINDOW_CHARS = {"en": 420, "zh": 130}

_HELD_OUT_ONE_IN = 12


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, and a passage that answers it."""

    query: str
    document: str


def is_held_out(document: str) -> bool:
    """Say whether a document belongs to the test; decided by its text, so that a duplicate cannot be on both sides."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_ONE_IN == 0


def read_pairs(data: Path, language: str, *, held_out: bool) -> list[Pair]:
    """Read one side of a collection, in file order."""
    lines = (data / COLLECTIONS[language]).read_text(encoding="utf-8").splitlines()
    pairs = [Pair(row["query"], row["document"]) for row in map(json.loads, lines)]
    return [pair for pair in pairs if is_held_out(pair.document) == held_out]


def windows(text: str, size: int) -> Iterator[str]:
    """Cut a text into consecutive windows of `size` characters; a short last piece joins nothing and is dropped."""
    for start in range(0, max(1, len(text) - size // 2), size):
        yield text[start : start + size]


def unique(texts: Sequence[str]) -> list[str]:
    """Return the texts without repetitions, first occurrence first."""
    return list(dict.fromkeys(texts))
