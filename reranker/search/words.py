"""Text becomes the words that BM25 counts: split by script, folded, stemmed.

Scripts with spaces are split at them and stemmed (Snowball). Chinese is cut by jieba, in its mode for search, which
gives long words and the short ones in them. Japanese, Korean, Thai, Lao, Khmer and Burmese become overlapping pairs of
characters, as Lucene's CJK analyzer has it; so do all Chinese characters where the documents are Japanese.
"""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from reranker.errors import ConfigurationError

Ideographs: TypeAlias = Literal["words", "pairs"]
"""What becomes of Chinese characters: jieba's words, or pairs of characters."""
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
"""Of the documents with Chinese characters so many have kana: then they are taken for Japanese."""


@dataclass(frozen=True, slots=True)
class WordRules:
    """How an index splits text. Kept with it: a query must be split as its documents were."""

    stemmer: str = "english"
    """Snowball's name of a language, or "none"."""
    ideographs: Ideographs = "words"

    def split(self, text: str) -> list[str]:
        """Give the words of a text, in their order."""
        return list(self._words(text))

    def _words(self, text: str) -> Iterator[str]:
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
    """Check the name of a stemmer.

    Raises:
        ConfigurationError: There is none of this name.
    """
    if name != NO_STEMMING and name not in _languages():
        raise ConfigurationError(f"no stemmer {name!r}; known are {NO_STEMMING}, {', '.join(_languages())}")
    return name


def ideographs_of(texts: Iterable[str]) -> Ideographs:
    """Say how the Chinese characters of a collection are best split, by whether it is Japanese."""
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
