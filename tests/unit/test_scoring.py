"""Sorting NaN raises nothing and gives any order; ties must not depend on the shard a document was in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import InvalidScoreError
from reranker.ranking.scoring import aggregate, merge, rank, relevance_scores, require_finite
from reranker.types import EngineScores, FloatArray, TokenArray
from tests.unit.fleets import scores

LOGITS = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=50)
THREE_DOCUMENTS = np.array([0, 0, 0, 1, 2, 2], dtype=np.int32)  # in 3, 1 and 2 windows


def _logits(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


@given(logits=LOGITS)
def test_score_is_the_softmax_read_at_yes(logits: list[float]) -> None:
    """The reference computes exp(yes) / (exp(yes) + exp(no)) in log space; with no = 0 that is our sigmoid."""
    for logit, score in zip(_logits(*logits).tolist(), relevance_scores(_logits(*logits)), strict=True):
        assert score == pytest.approx(math.exp(logit - np.logaddexp(logit, 0)), rel=1e-9)


@given(logits=LOGITS)
def test_scores_keep_the_order_of_logits(logits: list[float]) -> None:
    array = _logits(*logits)
    assert np.all(np.diff(relevance_scores(array)[np.argsort(array, kind="stable")]) >= 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logit_that_is_not_finite_names_its_document(bad: float) -> None:
    with pytest.raises(InvalidScoreError, match=r"1 of 6 pairs.*documents\[1\]"):
        require_finite(scores(0.5, 0.1, 0.2, bad, 0.3, 0.4), THREE_DOCUMENTS)


def test_finite_logits_pass() -> None:
    require_finite(scores(-1e30, 0, 1e30), np.arange(3, dtype=np.int32))


def test_logit_of_a_pair_that_was_not_scored_does_not_matter() -> None:
    require_finite(scores(1, math.nan, 2, missing=[1]), np.arange(3, dtype=np.int32))


@pytest.mark.parametrize(
    ("how", "expected"),
    [("max", [3.0, -1.0, 0.5]), ("first", [1.0, -1.0, 0.5])],
)
def test_windows_become_their_document(how: str, expected: list[float]) -> None:
    windows = _logits(1, 3, 2, -1, 0.5, -9)
    assert aggregate(windows, THREE_DOCUMENTS, how).tolist() == expected  # type: ignore[arg-type]


def test_mean_is_the_mean_of_scores() -> None:
    windows = _logits(1, 3, 2, -1, 0.5, -9)
    scores = relevance_scores(windows)
    expected = [scores[:3].mean(), scores[3], scores[4:].mean()]
    assert relevance_scores(aggregate(windows, THREE_DOCUMENTS, "mean")).tolist() == pytest.approx(expected)


def test_mean_of_certain_windows_stays_finite() -> None:
    """Scores of exactly 1 (or 0) have no log-odds; the mean must not become infinite."""
    certain = aggregate(_logits(200, 200, -800, -800), np.array([0, 0, 1, 1], dtype=np.int32), "mean")
    assert np.isfinite(certain).all()


@given(logits=LOGITS)
def test_documents_in_one_piece_keep_their_logits(logits: list[float]) -> None:
    whole: TokenArray = np.arange(len(logits), dtype=np.int32)
    for how in ("max", "mean", "first"):
        assert aggregate(_logits(*logits), whole, how).tolist() == _logits(*logits).tolist()


def test_ties_go_by_index() -> None:
    ranked = rank(np.array([0.5, 0.9, 0.5, 0.9]), frozenset({0}), np.array([1, 1, 2, 1]))
    assert [document.index for document in ranked] == [1, 3, 0, 2]
    assert [document.truncated for document in ranked] == [False, False, True, False]
    assert [document.windows for document in ranked] == [1, 1, 1, 2]


def test_scores_that_float64_cannot_tell_apart_go_by_log_odds() -> None:
    """Both are 1.0; with `raw_scores` the log-odds are shown, and must fall."""
    ranked = rank(np.array([38.0, 40.0, 39.0, 40.0]), frozenset(), np.ones(4, dtype=np.intp))
    assert [document.index for document in ranked] == [1, 3, 2, 0]


def test_only_the_documents_asked_for_are_ranked() -> None:
    ranked = rank(np.array([0.5, 0.9, 0.1]), frozenset(), np.array([1, 1, 1]), np.array([0, 2]))
    assert [document.index for document in ranked] == [0, 2]
    assert rank(np.array([0.5]), frozenset(), np.array([1]), np.array([], dtype=np.intp)) == ()


def test_merge_puts_every_score_at_its_index() -> None:
    merged = merge([((2, 0), scores(0.2, 0.0)), ((1,), scores(0.1))], 3)
    assert merged.logits.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert merged.scored.all()


def test_merge_marks_what_is_missing() -> None:
    """A shard without an answer, and a pair that its replica had no time for."""
    merged = merge([((3, 0), scores(0.2, 0.1, missing=[1]))], 4)
    assert merged.scored.tolist() == [False, False, False, True]


def test_merge_never_invents_a_score() -> None:
    parts: list[tuple[tuple[int, ...], EngineScores]] = [((0, 1), scores(0))]
    with pytest.raises(RuntimeError, match="This is a bug"):
        merge(parts, 2)


def test_scale_of_a_family_is_its_cards() -> None:
    """zerank's: sigmoid(x / 5)."""
    assert relevance_scores(_logits(5, 0, -5), 5).tolist() == relevance_scores(_logits(1, 0, -1)).tolist()
    windows = aggregate(_logits(5, -5), np.array([0, 0], dtype=np.int32), "mean", 5)
    assert relevance_scores(windows, 5).tolist() == pytest.approx([0.5])
    [best, _] = rank(np.array([0.0, 10.0]), frozenset(), np.array([1, 1]), scale=5)
    assert (best.index, best.log_odds, best.relevance_score) == (1, 10, relevance_scores(_logits(2)).item())


def test_scores_of_one_are_ordered_by_logit() -> None:
    ranked = rank(np.array([50.0, 90.0, 70.0]), frozenset(), np.array([1, 1, 1]))
    assert [document.relevance_score for document in ranked] == [1, 1, 1]
    assert [document.index for document in ranked] == [1, 2, 0]
