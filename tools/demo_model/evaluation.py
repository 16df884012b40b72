"""Ranking quality against BM25: the same questions, the same candidates, two rankers."""

import json
import logging
import math
import random
import re
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_CHINESE, STOPWORDS_EN_PLUS

from tools.demo_model import checkpoint
from tools.demo_model.corpus import Pair

CANDIDATES = 20

_LATIN_WORD = re.compile(r"[a-z0-9]+")


class Ranker(Protocol):
    """Anything that scores documents for a query; higher is better."""

    def scores(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """Return one score per document."""


def words(text: str, language: str) -> list[str]:
    """Split as BM25 is usually fed: lower-cased words in English, jieba's words in Chinese, no stop words."""
    if language == "en":
        return [word for word in _LATIN_WORD.findall(text.lower()) if word not in STOPWORDS_EN_PLUS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba 0.42.1 imports pkg_resources, which says that it is deprecated
        import jieba
    jieba.setLogLevel(logging.WARNING)
    return [word for word in jieba.lcut(text.lower()) if word.strip() and word not in STOPWORDS_CHINESE]


class Bm25:
    """BM25 (k1 1.5, b 0.75, Lucene's formula: bm25s' defaults) over a pool, which also gives it its idf."""

    def __init__(self, pool: Sequence[str], language: str) -> None:
        self._language = language
        self._position = {document: index for index, document in enumerate(pool)}
        self._index = bm25s.BM25()
        self._index.index([words(document, language) for document in pool], show_progress=False)

    def pool_scores(self, query: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        known = [word for word in words(query, self._language) if word in self._index.vocab_dict]
        if not known:
            return np.zeros(len(self._position), dtype=np.float32)
        scores: np.ndarray[tuple[int], np.dtype[np.float32]] = self._index.get_scores(known)
        return scores

    def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        every = self.pool_scores(query)
        return [float(every[self._position[document]]) for document in documents]


@dataclass(frozen=True, slots=True)
class Trial:
    """One question and its candidates; the relevant one comes first."""

    query: str
    candidates: Sequence[str]


def random_trials(pairs: Sequence[Pair], pool: Sequence[str], seed: int = 0) -> list[Trial]:
    draw = random.Random(seed)
    trials = []
    for pair in pairs:
        others = [document for document in pool if document != pair.document]
        trials.append(Trial(pair.query, [pair.document, *draw.sample(others, CANDIDATES - 1)]))
    return trials


def hard_trials(pairs: Sequence[Pair], pool: Sequence[str], bm25: Bm25) -> list[Trial]:
    """Give each question the 19 other documents that BM25 likes best: the mistakes BM25 is prone to."""
    trials = []
    for pair in pairs:
        order = np.argsort(-bm25.pool_scores(pair.query), kind="stable")
        others = [pool[index] for index in order if pool[index] != pair.document]
        trials.append(Trial(pair.query, [pair.document, *others[: CANDIDATES - 1]]))
    return trials


@dataclass(frozen=True, slots=True)
class Quality:
    """How often the relevant document comes first, and how high it is; means over n questions."""

    top1: float
    mrr: float
    n: int
    top1_error: float
    """Standard error of top1."""
    mrr_error: float
    """Standard error of mrr."""


def measure(ranker: Ranker, trials: Sequence[Trial]) -> Quality:
    """Rank every trial. A tie counts against the relevant document, so constant scores earn nothing."""
    ranks = []
    for trial in trials:
        relevant, *others = ranker.scores(trial.query, trial.candidates)
        ranks.append(1 + sum(other >= relevant for other in others))
    top1, top1_error = _mean([float(rank == 1) for rank in ranks])
    mrr, mrr_error = _mean([1 / rank for rank in ranks])
    return Quality(top1, mrr, len(ranks), top1_error, mrr_error)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True, slots=True)
class TestSet:
    """The questions of one kind, and the documents their candidates come from."""

    name: str
    language: str
    pairs: Sequence[Pair]
    pool: Sequence[str]


def read_test_sets() -> list[TestSet]:
    """Read the committed questions, grouped by source and language."""
    rows = [
        {"source": "written here", **json.loads(line)}
        for path in (checkpoint.HELD_OUT, checkpoint.OWN_QUESTIONS)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["language"]), []).append(row)
    return [
        TestSet(
            f"{source}, {language}",
            language,
            [Pair(row["query"], row["document"]) for row in group if "query" in row],
            list(dict.fromkeys(row["document"] for row in group)),
        )
        for (source, language), group in groups.items()
    ]
