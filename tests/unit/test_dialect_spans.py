"""`relevant_spans` as Cohere's client sends it, and evidence in place of documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS
from reranker.dialects.base import RankingCall
from reranker.dialects.parse import parse
from reranker.errors import InvalidRequestError
from reranker.record import RequestRecord
from reranker.types import RankedDocument, Ranking, Span, SpanTerms

TEXT = "One 😀 sentence. Another one.  And, at the end, a third."
SPANS = (Span(30, 55, 0.9, 2.2), Span(0, 15, 0.5, 0.0))
RANKING = Ranking(results=(RankedDocument(1, 0.9, 2.2, spans=SPANS), RankedDocument(0, 0.2, -1.4)))
ENABLED = {"mode": "enabled"}


def ask(path_dialect: str | None = None, **body: Any) -> RankingCall:
    dialect = next((one for one in DIALECTS if one.name == path_dialect), None)
    return parse(json.dumps({"query": "q", "documents": ["a", TEXT], **body}).encode(), dialect, LimitsConfig())


def answer(ranking: Ranking = RANKING, path_dialect: str | None = None, **body: Any) -> Any:  # Any: JSON
    return ask(path_dialect, **body).write([ranking], "demo", RequestRecord("id"))


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"relevant_spans": {"mode": "enabled", "threshold": 0.3, "max_spans": 2}}, SpanTerms(0.3, 2)),
        ({"relevant_spans": ENABLED, "max_evidence_tokens": 500}, SpanTerms(max_tokens=500)),
        ({"relevant_spans": {"mode": "enabled", "threshold": None, "max_spans": None, "new": 1}}, SpanTerms()),
        ({"return_documents": "evidence"}, SpanTerms()),
        ({"relevant_spans": {"mode": "disabled"}, "return_documents": True}, None),
        ({"relevant_spans": None, "return_documents": "true"}, None),
        ({"max_evidence_tokens": 5}, None),
    ],
)
def test_what_is_sent_becomes_terms(sent: dict[str, Any], meant: SpanTerms | None) -> None:
    assert ask(**sent).lists[0].spans == meant
    assert ask(**sent).ignored == ()


def test_spans_are_in_the_results_that_have_some_and_only_when_asked_for() -> None:
    found = answer(relevant_spans=ENABLED)["results"]
    assert found == [
        {
            "index": 1,
            "relevance_score": 0.9,
            "relevant_spans": [{"start": 30, "end": 55, "score": 0.9}, {"start": 0, "end": 15, "score": 0.5}],
        },
        {"index": 0, "relevance_score": 0.2},
    ]
    assert TEXT[30:55] == "And, at the end, a third."
    assert all("relevant_spans" not in one for one in answer(return_documents="evidence")["results"])
    raw = answer(relevant_spans=ENABLED, raw_scores=True)["results"][0]
    assert [one["score"] for one in raw["relevant_spans"]] == [2.2, 0.0]


def test_evidence_stands_in_place_of_documents_in_their_order() -> None:
    results = answer(return_documents="evidence")["results"]
    assert [one["document"] for one in results] == [{"text": f"{TEXT[:15]}\n{TEXT[30:55]}"}, {"text": ""}]
    beside = RankedDocument(1, 0.9, 2.2, spans=(Span(16, 28, 0.9, 2.2), Span(0, 15, 0.8, 1.4)))
    [joined] = answer(Ranking(results=(beside,)), return_documents="evidence")["results"]
    assert joined["document"]["text"] == "One 😀 sentence. Another one."
    infinity = answer(path_dialect="infinity", return_documents="evidence")["results"]
    assert infinity[1]["document"] == ""
    assert infinity[0]["document"].startswith("One")


def test_an_object_gives_its_evidence_only() -> None:
    body: dict[str, Any] = {"documents": ["a", {"text": TEXT, "secret": 1}], "return_documents": "evidence"}
    assert answer(**body)["results"][0]["document"].keys() == {"text"}


def test_documents_without_time_for_spans_are_named() -> None:
    late = Ranking(results=RANKING.results, spans_unscored=(0,))
    assert answer(late, relevant_spans=ENABLED)["spans_unscored"] == [0]
    assert "spans_unscored" not in answer(relevant_spans=ENABLED)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("relevant_spans.mode", {"relevant_spans": {"mode": "perhaps"}}),
        ("relevant_spans.threshold", {"relevant_spans": {"mode": "enabled", "threshold": 1.5}}),
        ("relevant_spans.max_spans", {"relevant_spans": {"mode": "enabled", "max_spans": 0}}),
        ("relevant_spans", {"relevant_spans": "enabled"}),
        ("return_documents", {"return_documents": "some"}),
        ("max_evidence_tokens", {"max_evidence_tokens": 0}),
    ],
)
def test_a_wrong_value_is_named(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ask(**wrong)
    assert caught.value.field == field


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_schema_of_an_answer_has_spans_where_they_can_be_asked_for(dialect: Any) -> None:
    has_them = "relevant_spans" in str(TypeAdapter(dialect.answer).json_schema())
    assert has_them == ("relevant_spans" in dialect.body.model_fields)


@pytest.mark.parametrize("dialect", [one for one in DIALECTS if one.shares_paths], ids=lambda one: one.name)
def test_a_dialect_without_a_place_names_what_it_ignores(dialect: Any) -> None:
    """And answers as it does without the fields."""
    [body, *_] = dialect.examples.values()
    plain = parse(json.dumps(body).encode(), dialect, LimitsConfig())
    asked = {**body, "relevant_spans": ENABLED, "max_evidence_tokens": 9}
    call = parse(json.dumps(asked).encode(), dialect, LimitsConfig())
    if "relevant_spans" in dialect.body.model_fields:
        assert call.ignored == plain.ignored
        assert call.lists[0].spans is not None
    else:
        assert call.ignored == (*plain.ignored, "relevant_spans", "max_evidence_tokens")
        assert call.lists == plain.lists
    disabled = parse(json.dumps({**body, "relevant_spans": {"mode": "disabled"}}).encode(), dialect, LimitsConfig())
    assert disabled.ignored == plain.ignored
