"""What an index makes of a text: the words that BM25 counts, and the chunks that are found and ranked.

Words: scripts with spaces are split at them, folded and stemmed (Snowball). Chinese is cut by jieba in its search mode,
which gives long words and the short ones in them. Japanese, Korean, Thai, Lao, Khmer and Burmese become overlapping
pairs of characters, as in Lucene's CJK analyzer; so do all Chinese characters where the documents are Japanese.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tokenizers import Tokenizer

from reranker.errors import ConfigurationError
from reranker.search.types import Chunk, Document

Ideographs: TypeAlias = Literal["words", "pairs"]
"""How Chinese characters are split: into jieba's words, or into pairs of characters."""
NO_STEMMING = "none"

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_OTHERS = f"_{_HAN}{_KANA}{_HANGUL}{_UNSPACED}"
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0dff"  # of words, but not in \w
_RUN = re.compile(
    f"(?P<ideographs>[{_HAN}{_KANA}]+)|(?P<pairs>[{_HANGUL}]+|[{_UNSPACED}]+)"
    f"|(?P<word>(?:[^\\W{_OTHERS}]|[{_MARKS}])+(?:'[^\\W\\d{_OTHERS}]+)*)"
)
_HAS_KANA, _HAS_HAN = re.compile(f"[{_KANA}]"), re.compile(f"[{_HAN}]")
_JAPANESE_SHARE = 0.2
"""A collection is Japanese if more than this share of its documents with Chinese characters has kana."""


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Splits text into words. An index keeps its settings: a query must be split as the documents were."""

    stemmer: str = "english"
    """Snowball's name of a language, or "none"."""
    ideographs: Ideographs = "words"

    def words(self, text: str) -> Iterator[str]:
        """Yield the words of a text, in their order."""
        stem = _stemmer(self.stemmer)
        # NFKC: full-width letters and half-width kana become the usual ones.
        folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
        for run in _RUN.finditer(folded):
            if run.lastgroup == "word":
                yield run[0] if stem is None else stem(run[0])
            elif run.lastgroup == "pairs" or self.ideographs == "pairs" or _HAS_KANA.search(run[0]):
                yield from _pairs(run[0])
            else:
                yield from _jieba().cut_for_search(run[0])


def require_stemmer(name: str) -> str:
    """Give a stemmer's name back; raises ConfigurationError if there is none of this name."""
    if name != NO_STEMMING and name not in _languages():
        raise ConfigurationError(f"no stemmer {name!r}; known are {NO_STEMMING}, {', '.join(_languages())}")
    return name


def ideographs_of(texts: Iterable[str]) -> Ideographs:
    """Choose how a collection's Chinese characters are split: into pairs if it is Japanese."""
    with_han = with_kana = 0
    for text in texts:
        if _HAS_HAN.search(text):
            with_han += 1
            with_kana += _HAS_KANA.search(text) is not None
    return "pairs" if with_kana > _JAPANESE_SHARE * with_han else "words"


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for first, second in itertools.pairwise(run):
        yield first + second


@cache
def _languages() -> tuple[str, ...]:
    import Stemmer  # here: commands that search nothing need not wait for it

    return tuple(Stemmer.algorithms())


@cache
def _stemmer(name: str) -> Any:  # Any: a method of an untyped class
    if name == NO_STEMMING:
        return None
    import Stemmer

    return Stemmer.Stemmer(name).stemWord


@cache
def _jieba() -> Any:  # Any: an untyped module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba 0.42.1 imports pkg_resources, which says that it is deprecated
        import jieba
    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()  # a second, now and not in a request
    return jieba


_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),  # of a paragraph
    re.compile(r"[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f\uff0e\u0964][\u201d\u2019\u300d\u300f\uff09]*|\n"),  # a sentence
    re.compile(r"\s+"),  # a word
)


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """How documents are cut."""

    tokens: int = 512
    """The most tokens of one chunk, as the index's tokenizer counts."""
    overlap: int = 64
    """Tokens that neighbouring chunks share, approximately: a chunk begins with a word."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.overlap <= self.tokens // 2:
            raise ConfigurationError("a chunk needs at least 1 token, and the overlap is at most half of it")


class Chunker:
    """Cuts documents into chunks of so many tokens, where possible at the end of a paragraph or a sentence."""

    def __init__(self, folder: Path, size: ChunkSize) -> None:
        """Load `tokenizer.json` from a model's folder."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._size = size

    def chunks(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        """Cut documents; each has at least one chunk."""
        encoded = self._tokenizer.encode_batch_fast([one.text for one in documents], add_special_tokens=False)
        # encode_batch_fast gives no offsets; only what is too long needs them.
        return [
            [Chunk(one.id, 0, one.text.strip(), _leading(one.text), one.title, one.metadata)]
            if len(tokens) <= self._size.tokens
            else list(self._cut(one))
            for one, tokens in zip(documents, encoded, strict=True)
        ]

    def _cut(self, document: Document) -> Iterator[Chunk]:
        offsets = self._tokenizer.encode(document.text, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        first = number = end = 0
        while first < len(offsets):
            last = min(first + self._size.tokens, len(offsets))  # not in the chunk
            begin = min(offsets[first][0], end) if number else 0  # what the tokenizer drops is not lost
            end = offsets[last - 1][1] if last < len(offsets) else len(document.text)
            if last < len(offsets):
                # Not so early that the next chunk would hardly get further than this one.
                earliest = offsets[first + (self._size.tokens + self._size.overlap) // 2][0]
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
            first = max(self._word_start(document.text, starts, last - self._size.overlap, last), first + 1)

    @staticmethod
    def _word_start(text: str, starts: Sequence[int], earliest: int, latest: int) -> int:
        """The first token from `earliest` on that begins a word, or `earliest` in a script without spaces."""
        for place in range(earliest, latest):
            if starts[place] == 0 or text[starts[place] - 1].isspace() or text[starts[place]].isspace():
                return place
        return earliest


def _good_end(text: str, earliest: int, latest: int) -> int:
    """The last end of a paragraph between two characters, else of a sentence, else of a word."""
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, earliest, latest)]
        if ends:
            return ends[-1]
    return latest


def _leading(text: str) -> int:
    return len(text) - len(text.lstrip())
