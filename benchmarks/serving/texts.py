"""Queries and documents by seed: the same seed gives every system the same lists, and no two lists are alike."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

TextKind = Literal["words", "long", "real"]
"""words: 60 random words, 193 tokens a pair in all; long: about 2,000 tokens a pair; real: questions and passages."""
QUERY_WORDS = 6
DOCUMENT_WORDS: dict[TextKind, int] = {"words": 60, "long": 1_020}
_JUDGED = Path(__file__).parents[1] / "judged"
_REAL_SETS = ("medquad-en", "cmrc-zh")


@dataclass(frozen=True, slots=True)
class TextList:
    """A query and its candidates."""

    query: str
    documents: list[str]


def make_list(kind: TextKind, documents: int, seed: str) -> TextList:
    """Draw a list.

    Args:
        kind: What the texts are.
        documents: How many.
        seed: Names the list: workload, round, stream and number.
    """
    draw = random.Random(seed)
    if kind == "real":
        name = draw.choice(_REAL_SETS)
        # Passages come back in other lists, but behind another query: no prompt comes twice.
        return TextList(draw.choice(_texts(name, "queries")), draw.choices(_texts(name, "corpus"), k=documents))
    words, length = _words(), DOCUMENT_WORDS[kind]
    query = " ".join(draw.choices(words, k=QUERY_WORDS))
    return TextList(query, [" ".join(draw.choices(words, k=length)) for _ in range(documents)])


def lists(kind: TextKind, documents: int, seed: str, hot: int = 0) -> Iterator[TextList]:
    """Draw lists without end.

    Args:
        kind: See `make_list`.
        documents: See `make_list`.
        seed: See `make_list`; the list's number is added.
        hot: Draw so many, then the same again. 0: always new ones.
    """
    number = 0
    while True:
        yield make_list(kind, documents, f"{seed}/{number % hot if hot else number}")
        number += 1


@cache
def _words() -> tuple[str, ...]:
    """Distinct lower-case words of the English set, punctuation included: 1.8 of Qwen's tokens each, drawn evenly."""
    found = {word for text in _texts("medquad-en", "corpus") for word in text.split()}
    return tuple(sorted(word for word in found if word.islower()))


@cache
def _texts(name: str, part: Literal["queries", "corpus"]) -> tuple[str, ...]:
    lines = (_JUDGED / name / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["text"] for line in lines)
