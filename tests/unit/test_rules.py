"""A rule that drops a document silently, or drops the wrong one, is worse than none."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from reranker.config import ExclusionRule, RulesConfig
from reranker.ranking.scoring import apply
from reranker.types import ExcludedDocument, RankedDocument, RankRequest

DOCUMENTS = ("Aspirin relieves pain.", "RETRACTED: a study of aspirin.", "Ibuprofen relieves pain.")
METADATA: tuple[Mapping[str, object], ...] = (
    {"contraindicated": True, "source": {"journal": "A"}},
    {"contraindicated": False, "tags": ["old", "retracted"]},
    {},
)
RANKED = tuple(RankedDocument(index, score, 0.0) for index, score in ((1, 0.9), (0, 0.6), (2, 0.3)))


def _apply(
    *rules: dict[str, Any],
    threshold: float | None = None,
    metadata: tuple[Mapping[str, object], ...] = METADATA,
    **wish: Any,
) -> tuple[list[int], list[tuple[int, str]]]:
    config = RulesConfig(score_threshold=threshold, exclude=tuple(ExclusionRule(**rule) for rule in rules))
    kept, excluded = apply(RANKED, RankRequest("q", DOCUMENTS, metadata, **wish), config)
    return [document.index for document in kept], [(one.index, one.rule) for one in excluded]


def test_without_rules_everything_stays() -> None:
    assert _apply() == ([1, 0, 2], [])


@pytest.mark.parametrize(
    ("rule", "excluded"),
    [
        ({"pattern": "^RETRACTED"}, 1),
        ({"pattern": "(?i)IBUPROFEN"}, 2),
        ({"metadata": {"contraindicated": True}}, 0),
        ({"metadata": {"source.journal": "A"}}, 0),
        ({"metadata": {"tags": "retracted"}}, 1),
        ({"metadata": {"contraindicated": False}, "pattern": "aspirin"}, 1),
    ],
)
def test_rule_excludes_what_it_matches_and_says_so(rule: dict[str, Any], excluded: int) -> None:
    kept, reported = _apply({"name": "the rule", **rule})
    assert kept == [index for index in (1, 0, 2) if index != excluded]
    assert reported == [(excluded, "the rule")]


@pytest.mark.parametrize(
    "rule",
    [
        {"metadata": {"contraindicated": 1}},  # True is not 1
        {"metadata": {"missing": None}},  # a field that is absent is not null
        {"metadata": {"contraindicated": True}, "pattern": "Ibuprofen"},  # both conditions must hold
        {"metadata": {"source.journal.name": "A"}},
    ],
)
def test_rule_leaves_what_it_does_not_match(rule: dict[str, Any]) -> None:
    assert _apply({"name": "the rule", **rule}) == ([1, 0, 2], [])


def test_documents_without_metadata_match_no_metadata_rule() -> None:
    assert _apply({"name": "x", "metadata": {"contraindicated": True}}, metadata=()) == ([1, 0, 2], [])


def test_first_matching_rule_is_named_and_rules_go_before_the_threshold() -> None:
    first, second = {"name": "first", "pattern": "aspirin|Ibuprofen"}, {"name": "second", "pattern": "study"}
    assert _apply(first, second, threshold=0.5) == ([0], [(1, "first"), (2, "first")])


def test_threshold_leaves_out_lower_scores_only() -> None:
    assert _apply(threshold=0.6) == ([1, 0], [(2, "score_threshold")])


def test_requests_threshold_goes_before_the_configured_one() -> None:
    assert _apply(threshold=0.99, score_threshold=0.0) == ([1, 0, 2], [])


@pytest.mark.parametrize("rule", [{"name": "empty"}, {"name": "bad", "pattern": "("}, {"name": "", "pattern": "x"}])
def test_rule_that_cannot_work_is_refused(rule: dict[str, Any]) -> None:
    """One without a condition would empty every answer."""
    with pytest.raises(ValidationError):
        ExclusionRule(**rule)


def test_excluded_documents_are_in_the_lists_order() -> None:
    config = RulesConfig(score_threshold=1.0)
    _, excluded = apply(RANKED, RankRequest("q", DOCUMENTS), config)
    assert excluded == tuple(ExcludedDocument(index, "score_threshold") for index in range(3))


def test_no_pattern_holds_the_service_up() -> None:
    """Python's own engine would not end: it tries every way to part the letters."""
    rule = ExclusionRule(name="slow", pattern=r"(a+)+$")
    assert rule.regex().search(b"a" * 100_000 + b"b") is None
    with pytest.raises(ValidationError, match="RE2"):
        ExclusionRule(name="back", pattern=r"(a)\1")
