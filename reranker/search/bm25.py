"""BM25 over the chunks of an index, by bm25s: the first stage that needs no model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reranker.search.base import Candidate
from reranker.search.filters import Filter
from reranker.search.words import WordRules

if TYPE_CHECKING:
    from reranker.search.opened import OpenIndex

FOLDER = "bm25"
_STOP_WORDS = {"german", "dutch", "french", "spanish", "portuguese", "italian", "russian", "swedish", "norwegian"}
_STOP_WORDS |= {"danish", "turkish"}
"""Languages that bm25s has a list of stop words for, besides English."""


def write(folder: Path, texts: Iterable[str], rules: WordRules) -> None:
    """Index texts, in their order, into a folder.

    bm25s' defaults: k1 1.5, b 0.75, Lucene's formula.
    """
    import bm25s  # here: it brings numba, which vLLM's start trips over, and takes half a second
    from bm25s.tokenization import Tokenized

    vocabulary: dict[str, int] = {}
    ids = [
        np.asarray([vocabulary.setdefault(word, len(vocabulary)) for word in rules.split(text)], dtype=np.int32)
        for text in texts
    ]
    if not vocabulary:  # documents of punctuation only; bm25s fails on them
        vocabulary[""] = 0
        ids[0] = np.zeros(1, dtype=np.int32)
    index = bm25s.BM25(backend="numpy")
    index.index(Tokenized(ids=ids, vocab=vocabulary), show_progress=False)
    index.save(str(folder / FOLDER), show_progress=False)


class Bm25:
    """See `reranker.search.base.FirstStage`."""

    name = "bm25"

    def __init__(self, index: OpenIndex) -> None:
        """Open an index's BM25; its postings are read where they lie."""
        import bm25s

        self._index = index
        self._rules = index.facts.words
        self._bm25 = bm25s.BM25.load(str(index.folder / FOLDER), mmap=True, show_progress=False)
        self._rules.split("\u8bcd")  # loads the dictionary now, and not in a request

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])

    async def search(self, query: str, count: int, wanted: Filter | None = None) -> list[Candidate]:
        """Find the chunks that share words with the query; in a thread."""
        return await asyncio.to_thread(self._search, query, count, wanted)

    def _search(self, query: str, count: int, wanted: Filter | None) -> list[Candidate]:
        known = self._bm25.vocab_dict
        words = self._rules.split(query)
        # What nearly every text holds says nothing, unless the query is nothing else ("The Who").
        telling = [word for word in words if word not in _stop_words(self._rules)] or words
        ids = [known[word] for word in telling if word in known]
        if not ids:
            return []
        scores = self._bm25.get_scores_from_ids(ids)
        rows = self._index.rows.rows(wanted)
        if rows is not None:
            scores = np.where(rows, scores, 0)
        return [
            Candidate(self._index.chunks[place], float(scores[place]))
            for place in best(scores, count)
            if scores[place] > 0
        ]


def best(scores: Any, count: int) -> list[int]:  # Any: an array of numbers
    """The places of the highest scores, highest first; equal ones in the order of the index."""
    count = min(count, len(scores))
    if count <= 0:
        return []
    # All that reach the count-th highest: which of several equal ones argpartition takes is left to chance.
    reach = np.flatnonzero(scores >= np.partition(scores, len(scores) - count)[len(scores) - count])
    if len(reach) > 4 * count:  # mostly ties, at 0
        above = reach[scores[reach] > scores[reach].min()]
        reach = np.concatenate([above, reach[scores[reach] == scores[reach].min()][: count - len(above)]])
    places: list[int] = reach[np.argsort(-scores[reach], kind="stable")][:count].tolist()
    return places


@cache
def _stop_words(rules: WordRules) -> frozenset[str]:
    from bm25s import stopwords

    lists: list[Any] = [stopwords.STOPWORDS_CHINESE]
    if rules.stemmer == "english":
        lists.append(stopwords.STOPWORDS_EN_PLUS)
    elif rules.stemmer in _STOP_WORDS:
        lists.append(getattr(stopwords, f"STOPWORDS_{rules.stemmer.upper()}"))
    return frozenset(word for words in lists for text in words for word in rules.split(text))
