"""Quality of a ranking, and whether one ranking is better than another on the same queries. Pure.

The metrics are trec_eval's own C code, through pytrec_eval; imported when first used, for the service needs none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.offline.evaluation.formats import Judgments

METRICS = ("nDCG@10", "MRR@10", "recall@10")
_DEPTH = 10
_RESAMPLES = 10_000
_SEED = 0


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


def measured_queries(judgments: Judgments) -> list[str]:
    """Return the queries that count: those with a relevant document. For the others every ranking is as good."""
    return [query for query, documents in judgments.items() if any(relevance > 0 for relevance in documents.values())]


def per_query(judgments: Judgments, run: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Measure every query that counts; one without candidates has 0 everywhere.

    Args:
        judgments: Relevance of the judged documents; others count as not relevant.
        run: Query id -> document ids, best first.

    Returns:
        Metric -> shape (queries,), in the order of `measured_queries`. nDCG has the relevance as gain (trec_eval's,
        not 2^relevance - 1).
    """
    import pytrec_eval  # here: commands that measure nothing need not wait for it

    queries = measured_queries(judgments)
    # Places instead of scores: trec_eval would order equal scores by document id.
    scored = {query: {doc: float(-place) for place, doc in enumerate(run.get(query, ()))} for query in queries}
    evaluator = pytrec_eval.RelevanceEvaluator(
        {query: judgments[query] for query in queries}, {f"ndcg_cut.{_DEPTH}", "recip_rank", f"recall.{_DEPTH}"}
    )
    found = evaluator.evaluate({query: ranking for query, ranking in scored.items() if ranking})
    names = {"nDCG@10": f"ndcg_cut_{_DEPTH}", "MRR@10": "recip_rank", "recall@10": f"recall_{_DEPTH}"}
    measured = {
        metric: np.array([found.get(query, {}).get(name, 0.0) for query in queries], dtype=np.float64)
        for metric, name in names.items()
    }
    # trec_eval's reciprocal rank has no cut: below 1/10 the first relevant document is not among the ten.
    reciprocal = measured["MRR@10"]
    measured["MRR@10"] = np.where(reciprocal > 1 / (_DEPTH + 0.5), reciprocal, 0.0)
    return measured


def compare(
    judgments: Judgments, before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[Comparison]:
    """Compare two runs, metric by metric."""
    first, second = per_query(judgments, before), per_query(judgments, after)
    return [_compare(metric, first[metric], second[metric]) for metric in METRICS]


def _compare(metric: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> Comparison:
    differences = after - before
    low, high = _interval(differences)
    return Comparison(
        metric=metric,
        before=float(before.mean()),
        before_error=_standard_error(before),
        after=float(after.mean()),
        after_error=_standard_error(after),
        difference=float(differences.mean()),
        low=low,
        high=high,
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
