"""The yardstick itself: ranks, ties, candidates, and that the test's documents were held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.demo_model import checkpoint, corpus, evaluation
from tools.demo_model.corpus import Pair, read_pairs
from tools.demo_model.evaluation import read_test_sets

DATA = Path("../shared/data")


class ByLength:
    """Prefers long documents."""

    def scores(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """Return each document's length."""
        return [float(len(document)) for document in documents]


def test_quality_is_computed_from_the_rank_of_the_first_candidate() -> None:
    """Ranks 1 and 3: top-1 is 1/2, the mean reciprocal rank 2/3."""
    trials = [evaluation.Trial("q", ["aaa", "bb", "c"]), evaluation.Trial("q", ["a", "bb", "ccc"])]

    quality = evaluation.measure(ByLength(), trials)

    assert (quality.top1, quality.n) == (0.5, 2)
    assert quality.mrr == pytest.approx(2 / 3)
    assert quality.top1_error == pytest.approx(0.5)


def test_a_tie_counts_against_the_relevant_document() -> None:
    """Otherwise a ranker that scores everything alike would look perfect."""
    assert evaluation.measure(ByLength(), [evaluation.Trial("q", ["aa", "bb", "cc"])] * 2).mrr == pytest.approx(1 / 3)


def test_bm25_gets_words_without_stop_words_in_either_language() -> None:
    """A baseline fed badly would make the demo model look good."""
    assert evaluation.words("What is the Capital of China?", "en") == ["capital", "china"]
    assert evaluation.words("北京是中国的首都", "zh") == ["北京", "中国", "首都"]


def test_hard_candidates_are_the_ones_bm25_likes_and_never_the_answer() -> None:
    """Mined negatives must be negatives."""
    pool = ["red apple pie", "apple juice", *(f"stone number {n}" for n in range(30))]
    bm25 = evaluation.Bm25(pool, "en")

    [trial] = evaluation.hard_trials([Pair("apple pie", pool[0])], pool, bm25)

    assert trial.candidates[:2] == ["red apple pie", "apple juice"]
    assert len(set(trial.candidates)) == evaluation.CANDIDATES


def test_every_test_set_can_fill_its_candidates() -> None:
    """Both languages, each with more documents than candidates, and each answer in its pool."""
    sets = read_test_sets()

    assert {test.language for test in sets} == {"en", "zh"}
    for test in sets:
        assert len(test.pool) > 2 * evaluation.CANDIDATES
        assert {pair.document for pair in test.pairs} <= set(test.pool)


def test_held_out_documents_are_in_no_other_input() -> None:
    """A document counted for idf or used to fit the scale would make the table flattering."""
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data")
    rows = [json.loads(line) for line in checkpoint.HELD_OUT.read_text(encoding="utf-8").splitlines()]
    for language in ("en", "zh"):
        used = {pair.document[:420] for pair in read_pairs(DATA, language, held_out=False)}
        held_out = {row["document"] for row in rows if row["language"] == language}
        assert held_out
        assert not held_out & used


def test_our_own_questions_are_not_our_own_frequency_texts() -> None:
    """The hand-written passages test; the hand-written claims are counted. They must not be the same sentences."""
    own = checkpoint.OWN_QUESTIONS.read_text(encoding="utf-8")
    claims = [*corpus.lines_of("claims_en.txt"), *corpus.lines_of("claims_zh.txt")]

    assert claims
    assert not [claim for claim in claims if claim in own]
