"""Sorting NaN raises nothing and gives any order; ties must not depend on the shard a document was in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import InvalidScoreError
from reranker.scoring import merge, rank, relevance_scores

LOGITS = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=50)


@given(logits=LOGITS)
def test_score_is_the_softmax_read_at_yes(logits: list[float]) -> None:
    """The reference computes exp(yes) / (exp(yes) + exp(no)) in log space; with no = 0 that is our sigmoid."""
    scores = relevance_scores(np.array(logits, dtype=np.float32))
    for logit, score in zip(np.array(logits, dtype=np.float32).tolist(), scores, strict=True):
        assert score == pytest.approx(math.exp(logit - np.logaddexp(logit, 0)), rel=1e-9)


@given(logits=LOGITS)
def test_scores_keep_the_order_of_logits(logits: list[float]) -> None:
    array = np.array(logits, dtype=np.float32)
    assert np.all(np.diff(relevance_scores(array)[np.argsort(array, kind="stable")]) >= 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logit_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(InvalidScoreError, match="1 of 3 pairs"):
        relevance_scores(np.array([0.5, bad, 0.1], dtype=np.float32))


def test_ties_go_by_index() -> None:
    ranked = rank(np.array([0.5, 0.9, 0.5, 0.9]), None, frozenset())
    assert [document.index for document in ranked] == [1, 3, 0, 2]


@pytest.mark.parametrize(("top_n", "expected"), [(None, [2, 0, 1]), (2, [2, 0]), (9, [2, 0, 1])])
def test_top_n_keeps_the_best(top_n: int | None, expected: list[int]) -> None:
    ranked = rank(np.array([0.5, 0.1, 0.9]), top_n, frozenset({1}))
    assert [document.index for document in ranked] == expected
    assert [document.truncated for document in ranked] == [index == 1 for index in expected]


def test_merge_puts_every_score_at_its_index() -> None:
    parts = [((2, 0), np.array([0.2, 0.0], dtype=np.float32)), ((1,), np.array([0.1], dtype=np.float32))]
    assert merge(parts, 3).tolist() == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    "parts",
    [[((0, 1), np.zeros(1, dtype=np.float32))], [((0,), np.zeros(1, dtype=np.float32))]],
    ids=["a shard lost a pair", "a shard is missing"],
)
def test_merge_never_invents_a_score(parts: list[tuple[tuple[int, ...], np.ndarray]]) -> None:
    with pytest.raises(RuntimeError, match="This is a bug"):
        merge(parts, 2)
