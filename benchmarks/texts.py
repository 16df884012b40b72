"""Queries and documents by seed: the same seed gives the same lists, and no two lists are alike."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from benchmarks.results import ROOT

TextKind = Literal["words", "long", "real"]
"""words: 60 random words, 193 tokens a pair in all; long: about 2,000 tokens a pair; real: questions and passages."""
DOCUMENT_WORDS: dict[TextKind, int] = {"words": 60, "long": 1_020}
QUERY_WORDS = 6
_REAL_SETS = ("medquad-en", "cmrc-zh")


@dataclass(frozen=True, slots=True)
class TextList:
    """A query and its candidates."""

    query: str
    documents: list[str]


def make_list(kind: TextKind, documents: int, seed: str) -> TextList:
    """Draw a list of so many documents; the seed names it: workload, round, stream and number."""
    draw = random.Random(seed)
    if kind == "real":
        name = draw.choice(_REAL_SETS)
        # Passages come back in other lists, but behind another query: no prompt comes twice.
        return TextList(draw.choice(judged(name, "queries")), draw.choices(judged(name, "corpus"), k=documents))
    words, length = _lower_words(), DOCUMENT_WORDS[kind]
    query = " ".join(draw.choices(words, k=QUERY_WORDS))
    return TextList(query, [" ".join(draw.choices(words, k=length)) for _ in range(documents)])


def lists(kind: TextKind, documents: int, seed: str, hot: int = 0) -> Iterator[TextList]:
    """Draw lists without end; with `hot`, so many, then the same again."""
    number = 0
    while True:
        yield make_list(kind, documents, f"{seed}/{number % hot if hot else number}")
        number += 1


class Lists:
    """Draws requests' bodies of lists of any length; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def body(self, documents: int, words: int, **fields: Any) -> bytes:
        """A body: so many documents of about so many words each, half as many to one and a half times as many."""
        texts = [self._text(max(1, round(words * self._random.uniform(0.5, 1.5)))) for _ in range(documents)]
        return json.dumps({"query": self._text(8), "documents": texts, **fields}).encode()

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(corpus_words(), k=words))


def pieces(count: int, characters: int = 1_000) -> list[str]:
    """Real English and Chinese text, mixed, in pieces of one length."""
    lines = [text for name in _REAL_SETS for text in judged(name, "corpus")]
    step = len(lines) // 2
    mixed = " ".join(text for pair in zip(lines[:step], lines[step:], strict=False) for text in pair)
    mixed *= count * characters // len(mixed) + 1
    return [mixed[start : start + characters] for start in range(0, count * characters, characters)]


@cache
def _lower_words() -> tuple[str, ...]:
    """Distinct lower-case words of the English set, punctuation included: 1.8 of Qwen's tokens each, drawn evenly."""
    return tuple(sorted({word for word in corpus_words() if word.islower()}))


@cache
def corpus_words() -> tuple[str, ...]:
    return tuple(word for text in judged("medquad-en", "corpus") for word in text.split())


@cache
def judged(name: str, part: Literal["queries", "corpus"]) -> tuple[str, ...]:
    path = ROOT / "benchmarks" / "judged" / name / f"{part}.jsonl"
    return tuple(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines())
