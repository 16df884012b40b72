"""From logits to the order: merge shards, windows to documents, relevance_score, sort, rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.config import ExclusionRule, RulesConfig
from reranker.errors import InvalidScoreError
from reranker.types import (
    Aggregate,
    EngineScores,
    ExcludedDocument,
    RankedDocument,
    Ranking,
    RankRequest,
    TokenArray,
)

_NO_LOG_ODDS = float(np.log(np.finfo(np.float64).tiny))
"""Of what has no score and must be listed: below all others, and a number."""


def require_finite(scores: EngineScores, document_of_pair: TokenArray) -> None:
    """Raise InvalidScoreError for a logit that is NaN or infinite: sorting NaN raises nothing and gives any order."""
    bad = np.flatnonzero(scores.scored & ~np.isfinite(scores.logits))
    if len(bad):
        raise InvalidScoreError(int(document_of_pair[bad[0]]), len(bad), len(scores.logits))


def relevance_scores(log_odds: NDArray[np.floating[Any]], scale: float = 1) -> NDArray[np.float64]:
    """Turn finite logits of any shape into relevance scores in [0, 1], by the sigmoid of logit / scale.

    With two answers it equals the softmax over their logits, read at "yes". In float64, different logits stay different
    scores up to 36 times the scale, and are 1.0 beyond.

    Source: QwenLM/Qwen3-Embedding, examples/qwen3_reranker_transformers.py, compute_logits.
    """
    # exp of a number <= 0 on both sides of zero: never overflows.
    decay = np.exp(-np.abs(log_odds.astype(np.float64) / scale))
    return np.where(log_odds >= 0, 1 / (1 + decay), decay / (1 + decay))


def aggregate(
    logits: NDArray[np.float32], document_of_pair: TokenArray, how: Aggregate, scale: float = 1
) -> NDArray[np.float64]:
    """Turn the log-odds of windows, shape (pairs,) and finite, into those of their documents, shape (documents,).

    "max" and "first" pick a window; "mean" is the mean relevance score, as log-odds again.
    """
    values = logits.astype(np.float64)
    first = np.flatnonzero(np.diff(document_of_pair, prepend=-1))
    if len(first) == len(values) or how == "first":
        return values[first]
    if how == "max":
        return np.maximum.reduceat(values, first)
    counts = np.diff(np.append(first, len(values)))
    mean = np.add.reduceat(relevance_scores(values, scale), first) / counts
    mean = np.clip(mean, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    odds = scale * (np.log(mean) - np.log1p(-mean))
    return np.where(counts == 1, values[first], odds)  # one window: its own log-odds, not a round trip's


def merge(parts: Sequence[tuple[Sequence[int] | NDArray[np.intp], EngineScores]], pairs: int) -> EngineScores:
    """Put the shards' scores, each with the list indices of its pairs, back in the list's order.

    Pairs of no shard come out as not scored.
    """
    logits = np.zeros(pairs, dtype=np.float32)
    scored = np.zeros(pairs, dtype=np.bool_)
    for indices, scores in parts:
        if (sent := len(indices)) != (back := len(scores.logits)):
            raise RuntimeError(f"a shard of {sent} pairs came back with {back} scores. This is a bug.")
        where = np.asarray(indices, dtype=np.intp)
        logits[where], scored[where] = scores.logits, scores.scored
    return EngineScores(logits, scored)


def rank(
    log_odds: NDArray[np.float64],
    truncated: frozenset[int],
    windows: NDArray[np.intp],
    documents: NDArray[np.intp] | None = None,
    scale: float = 1,
) -> tuple[RankedDocument, ...]:
    """Order documents by score, highest first, equal scores by log-odds, ties by index.

    `log_odds` and `windows` (prompts) are by document. `documents`: indices of those to rank, rising. None: all.
    """
    if documents is None:
        documents = np.arange(len(log_odds))
    scores = relevance_scores(log_odds, scale)
    # Beyond log-odds of 37 (of 37 times the scale), scores are all 1.
    order = documents[np.lexsort((-log_odds[documents], -scores[documents]))]
    return tuple(
        RankedDocument(int(i), float(scores[i]), float(log_odds[i]), int(i) in truncated, int(windows[i]))
        for i in order
    )


def apply(
    ranked: Sequence[RankedDocument], request: RankRequest, config: RulesConfig
) -> tuple[tuple[RankedDocument, ...], tuple[ExcludedDocument, ...]]:
    """Part a ranking into what stays, in its order, and what a rule excludes, by index.

    Exclusion rules go before the threshold, which is the request's own or the configured one.
    """
    threshold = config.score_threshold if request.score_threshold is None else request.score_threshold
    if threshold is None and not config.exclude:
        return tuple(ranked), ()
    rules = {one.index: rule for one in ranked if (rule := _matching_rule(one, request, config.exclude, threshold))}
    kept = tuple(one for one in ranked if one.index not in rules)
    return kept, tuple(ExcludedDocument(index, rules[index]) for index in sorted(rules))


def finish(ranking: Ranking, request: RankRequest, rules: RulesConfig) -> Ranking:
    """Make an answer of a ranking of all documents: rules, the threshold, `top_n`, and what is complete."""
    kept, excluded = apply(ranking.results, request, rules)
    results = kept[: request.top_n]
    cut_off = tuple(one.index for one in kept[len(results) :]) if request.complete else ()
    if request.complete:
        results = complete(kept, ranking.results, ranking.unscored)
    return replace(ranking, results=results, excluded=excluded, cut_off=cut_off, ranked=ranking.results)


def complete(
    kept: Sequence[RankedDocument], ranked: Sequence[RankedDocument], unscored: Sequence[int]
) -> tuple[RankedDocument, ...]:
    """All documents of a list: behind those that are kept the excluded ones, in order, then those without a score."""
    indices = {one.index for one in kept}
    excluded = (one for one in ranked if one.index not in indices)
    return (*kept, *excluded, *(RankedDocument(index, 0.0, _NO_LOG_ODDS) for index in unscored))


def _matching_rule(
    document: RankedDocument, request: RankRequest, rules: Sequence[ExclusionRule], threshold: float | None
) -> str | None:
    text, metadata = request.documents[document.index], request.metadata[document.index] if request.metadata else {}
    for rule in rules:
        if rule.pattern is not None and rule.regex().search(text.encode("utf-8", "replace")) is None:
            continue
        if all(same(field_of(metadata, name), value) for name, value in rule.metadata.items()):
            return rule.name
    return "score_threshold" if threshold is not None and document.relevance_score < threshold else None


ABSENT = object()  # the value of a field that a document does not have


def field_of(metadata: Mapping[str, object], name: str) -> object:
    """Read a field; a dotted name reaches into objects, unless a field has the whole name."""
    if name in metadata:
        return metadata[name]
    value: object = metadata
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT
        value = value[part]
    return value


def same(found: object, wanted: object) -> bool:
    """Whether a field's value is the wanted one; a list is if it holds it. True is not 1."""
    if isinstance(found, list):
        return any(same(one, wanted) for one in found)
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
