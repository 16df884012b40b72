"""Cuts documents into chunks of so many tokens that overlap, where possible at the end of a paragraph or a sentence."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from reranker.errors import ConfigurationError
from reranker.search.base import Chunk, Document

_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),  # of a paragraph
    re.compile(r"[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f\uff0e\u0964][\u201d\u2019\u300d\u300f\uff09]*|\n"),  # a sentence
    re.compile(r"\s+"),  # a word
)


@dataclass(frozen=True, slots=True)
class ChunkRules:
    """How documents are cut."""

    tokens: int = 512
    """At most in one chunk, by the tokenizer that is used."""
    overlap: int = 64
    """Tokens that neighbouring chunks share, about: a chunk begins with a word."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.overlap <= self.tokens // 2:
            raise ConfigurationError("a chunk needs at least 1 token, and the overlap is at most half of it")


class Chunker:
    """Cuts documents with one tokenizer."""

    def __init__(self, folder: Path, rules: ChunkRules) -> None:
        """Load `tokenizer.json` from a model's folder."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._rules = rules

    def chunks(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        """Cut documents; each has at least one chunk."""
        encoded = self._tokenizer.encode_batch_fast([one.text for one in documents], add_special_tokens=False)
        # encode_batch_fast gives no offsets; only what is too long needs them.
        return [
            [Chunk(one.id, 0, one.text.strip(), _leading(one.text), one.title, one.metadata)]
            if len(tokens) <= self._rules.tokens
            else list(self._cut(one))
            for one, tokens in zip(documents, encoded, strict=True)
        ]

    def _cut(self, document: Document) -> Iterator[Chunk]:
        offsets = self._tokenizer.encode(document.text, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        first = number = end = 0
        while first < len(offsets):
            last = min(first + self._rules.tokens, len(offsets))  # not in the chunk
            begin = min(offsets[first][0], end) if number else 0  # what the tokenizer drops is not lost
            end = offsets[last - 1][1] if last < len(offsets) else len(document.text)
            if last < len(offsets):
                # Not so early that the next chunk would hardly get further than this one.
                earliest = offsets[first + (self._rules.tokens + self._rules.overlap) // 2][0]
                end = _good_end(document.text, earliest, end)
                last = max(bisect.bisect_left(starts, end), first + 1)
                if last > first + 1 and offsets[last - 1][1] > end:  # the end is within a token
                    last -= 1
            text = document.text[begin:end]
            if text.strip():
                start = begin + _leading(text)
                yield Chunk(document.id, number, text.strip(), start, document.title, document.metadata)
                number += 1
            if last >= len(offsets):
                return
            first = max(self._word_start(document.text, starts, last - self._rules.overlap, last), first + 1)

    @staticmethod
    def _word_start(text: str, starts: Sequence[int], earliest: int, latest: int) -> int:
        """The first token from `earliest` on that begins a word; a script without spaces has none and needs none."""
        for place in range(earliest, latest):
            if starts[place] == 0 or text[starts[place] - 1].isspace() or text[starts[place]].isspace():
                return place
        return earliest


def _good_end(text: str, earliest: int, latest: int) -> int:
    """The last end of a paragraph between two places of a text, else of a sentence, else of a word."""
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, earliest, latest)]
        if ends:
            return ends[-1]
    return latest


def _leading(text: str) -> int:
    return len(text) - len(text.lstrip())
