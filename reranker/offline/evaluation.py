"""Measure a ranker on judged queries, and tell whether one ranking is better than another on the same queries.

ir-measures computes the measures: trec_eval's own code, and MS MARCO's for the reciprocal rank that is cut at ten.
Nothing here knows HTTP or an engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.offline import formats
from reranker.offline.formats import InputFileError, Judgments, Run

Rank: TypeAlias = Callable[[str, Sequence[str]], Iterable[tuple[int, float]]]
"""Ranks documents for a query: (position, score), best first."""
ScoredRun: TypeAlias = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score), best first."""

METRICS = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "recall@10": "R@10"}
"""What we report, by the names that ir-measures gives it."""
_RESAMPLES, _SEED = 10_000, 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """Judged queries and their candidates."""

    queries: dict[str, str]
    """Texts of the queries to rerank, by id."""
    corpus: dict[str, str]
    """Texts of their candidates, by id."""
    candidates: Run
    """For the queries to rerank only."""
    judgments: Judgments
    unjudged_queries: int
    """Queries of the run that count in no figure: nothing relevant is known for them."""

    @property
    def queries_without_candidates(self) -> int:
        """Queries that count as 0 before and after, because the run has nothing for them."""
        return sum(query not in self.candidates for query in measured_queries(self.judgments))


def load(queries: str, corpus: str, candidates: str, judgments: str, *, every_query: bool = False) -> Experiment:
    """Read the four files (`reranker.offline.formats`), and of queries and corpus only what is needed.

    `every_query`: those that have no relevant judgment, too.

    Raises:
        InputFileError: A file is unreadable or malformed, or they do not belong together.
    """
    judged = formats.read_judgments(judgments)
    run = formats.read_run(candidates)
    counted = set(measured_queries(judged))
    chosen = run if every_query else {query: documents for query, documents in run.items() if query in counted}
    if not counted & chosen.keys():
        raise InputFileError(candidates, None, f"none of its queries has a relevant document in {judgments}")
    query_texts = formats.read_texts(queries, chosen.keys())
    wanted = {document for documents in chosen.values() for document in documents}
    texts = formats.read_texts(corpus, wanted)
    _require(query_texts, chosen.keys(), queries, f"query of {candidates}")
    _require(texts, wanted, corpus, f"candidate of {candidates}")
    return Experiment(query_texts, texts, chosen, judged, sum(query not in counted for query in run))


def _require(texts: dict[str, str], wanted: Iterable[str], path: str, what: str) -> None:
    missing = sorted(set(wanted) - texts.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputFileError(path, None, f"lacks {missing[0]!r}{more}, a {what}")


def rerank(
    experiment: Experiment,
    rank: Rank,
    *,
    depth: int | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> ScoredRun:
    """Rerank every query's candidates, or the first `depth` of them; `advance` is told how many after each query.

    Returns:
        What the ranker gave, and behind it the candidates that were not reranked, with scores from -2 down.
    """
    run: ScoredRun = {}
    for query, documents in experiment.candidates.items():
        head, rest = documents[:depth], documents[depth:] if depth is not None else []
        ranking = rank(experiment.queries[query], [experiment.corpus[document] for document in head])
        run[query] = [(head[index], score) for index, score in ranking]
        run[query] += [(document, float(-2 - place)) for place, document in enumerate(rest)]
        advance(len(head))
    return run


def measured_queries(judgments: Judgments) -> list[str]:
    """Return the queries that count: those with a relevant document. For the others every ranking is as good."""
    return [query for query, documents in judgments.items() if any(relevance > 0 for relevance in documents.values())]


def per_query(judgments: Judgments, run: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Measure every query that counts; one without candidates has 0 everywhere.

    Documents that are not judged count as not relevant.

    Returns:
        Metric -> shape (queries,), in the order of `measured_queries`. nDCG has the relevance as gain (trec_eval's,
        not 2^relevance - 1).
    """
    import ir_measures  # here: commands that measure nothing need not wait for it

    queries = {query: place for place, query in enumerate(measured_queries(judgments))}
    # Places instead of scores: trec_eval would order equal scores by document id.
    scored = {query: {doc: float(-place) for place, doc in enumerate(run.get(query, ()))} for query in queries}
    measures = {ir_measures.parse_measure(name): metric for metric, name in METRICS.items()}
    measured = {metric: np.zeros(len(queries)) for metric in METRICS}
    judged = {query: judgments[query] for query in queries}
    for one in ir_measures.iter_calc(list(measures), judged, {query: docs for query, docs in scored.items() if docs}):
        measured[measures[one.measure]][queries[one.query_id]] = one.value
    return measured


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric before and after, over the same queries."""

    metric: str
    before: float
    before_error: float
    """Standard error of the mean; NaN with fewer than two queries."""
    after: float
    after_error: float
    difference: float
    low: float
    """The difference's 95 % interval: paired bootstrap over the queries."""
    high: float


def compare(
    judgments: Judgments, before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[Comparison]:
    """Compare two runs, metric by metric."""
    first, second = per_query(judgments, before), per_query(judgments, after)
    return [_compare(metric, first[metric], second[metric]) for metric in METRICS]


def _compare(metric: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> Comparison:
    difference = after - before
    return Comparison(
        metric,
        float(before.mean()),
        _standard_error(before),
        float(after.mean()),
        _standard_error(after),
        float(difference.mean()),
        *_interval(difference),
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the mean over resampled queries; the same in every run."""
    if len(differences) < 2:
        return math.nan, math.nan
    draw = np.random.default_rng(_SEED)
    # How often each query is drawn, instead of which: a multinomial. In blocks, for memory.
    share = np.full(len(differences), 1 / len(differences))
    block = max(1, 5_000_000 // len(differences))
    means = [
        draw.multinomial(len(differences), share, size=min(block, _RESAMPLES - start)) @ differences
        for start in range(0, _RESAMPLES, block)
    ]
    low, high = np.percentile(np.concatenate(means) / len(differences), [2.5, 97.5])
    return float(low), float(high)
