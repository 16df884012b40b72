"""The playground says where each document went, and shows texts as texts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from deployments.ui import html
from deployments.ui.documents import Document
from deployments.ui.ranking import difference, left_out, rows
from deployments.ui.refusals import advice
from deployments.ui.service import Refused

DOCUMENTS: list[Document] = ["first", "second", {"text": "third"}, "fourth"]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> ${alert(3)} {{#each value}} '\" &amp;"


def _answer(*ranked: tuple[int, float], **more: Any) -> dict[str, Any]:
    return {"results": [{"index": index, "relevance_score": score} for index, score in ranked]} | more


def test_ranks_are_compared_with_the_input_order() -> None:
    found = rows(DOCUMENTS, _answer((2, 0.9), (0, 0.5), (1, 0.4)))
    assert [(row.rank, row.index, row.moved, row.text) for row in found] == [
        (1, 2, 2, "third"),
        (2, 0, -1, "first"),
        (3, 1, -1, "second"),
    ]


def test_ranks_are_compared_with_another_ranking() -> None:
    found = rows(DOCUMENTS, _answer((0, 0.9), (3, 0.5)), before=[1, 0])
    assert [row.moved for row in found] == [1, None]


def test_documents_that_are_left_out_say_why() -> None:
    answer = _answer((2, 0.9), excluded=[{"index": 0, "rule": "score_threshold"}], unscored=[{"index": 1}])
    assert [(one.index, one.why) for one in left_out(DOCUMENTS, answer, 1)] == [
        (0, "below the threshold"),
        (1, "not scored in time"),
        (3, "not among the best 1"),
    ]


def test_what_happened_to_a_long_document_is_said() -> None:
    answer: dict[str, Any] = {"results": [{"index": 0, "relevance_score": 0.1, "truncated": True, "windows": 3}]}
    assert rows(DOCUMENTS, answer)[0].marks == ("cut: too long for the model", "scored in 3 windows")


def test_two_rankings_differ_in_words() -> None:
    first = rows(DOCUMENTS, _answer((0, 0.9), (1, 0.5), (2, 0.4), (3, 0.1)))
    same = rows(DOCUMENTS, _answer((0, 0.8), (1, 0.7), (2, 0.4), (3, 0.1)), before=[0, 1, 2, 3])
    other = rows(DOCUMENTS, _answer((0, 0.9), (3, 0.8), (1, 0.5), (2, 0.4)), before=[0, 1, 2, 3])
    assert difference(first, same) == "Both give the same order."
    said = "3 of 4 documents have another rank. The best one is the same. Document 4 moves most: from rank 4 to 2."
    assert difference(first, other) == said


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE * 100])
def test_nothing_that_comes_from_outside_becomes_html(text: str) -> None:
    """Documents are untrusted, and so are a model's name, a rule's, a replica's, and what a service says."""
    answer = _answer((0, 0.5), model=text, usage={"total_tokens": 1}, meta={"shards": 1, "replicas": 1})
    answer["excluded"] = [{"index": 1, "rule": text}]
    answer["timings"] = {"total_ms": 2.0, "stages_ms": {text: 1.0}, "shards": [{"replica": text, "documents": [0]}]}
    documents = [text, text]
    drawn = (
        html.ranking(rows(documents, answer), left_out(documents, answer, None), text)
        + html.facts(answer, 1, 1.0)
        + html.timing({}, answer)
        + html.refusal(advice(Refused(400, text, text)))
        + html.side(text, html.note(text) + html.hint(text))
    )
    assert "&lt;img" in drawn
    assert not re.search(r"<(img|script)|onerror=alert\(1\)>", drawn)


def test_a_huge_list_is_drawn_in_part() -> None:
    documents = [f"number {place}" for place in range(5_000)]
    drawn = html.ranking(rows(documents, _answer(*((place, 0.5) for place in range(5_000)))))
    assert "and 4,800 more" in drawn
    assert len(drawn) < 200_000


def test_stages_come_from_the_answer_or_from_its_header() -> None:
    assert "tokenize" not in html.timing({}, {})
    assert "make prompts" in html.timing({"tokenize": 1.0, "total": 2.0}, {})
    timings = {"total_ms": 4.0, "stages_ms": {"engine": 3.0}, "shards": [{"replica": None, "documents": None}]}
    drawn = html.timing({"tokenize": 1.0}, {"timings": timings})
    assert "model" in drawn
    assert "none in time" in drawn
    assert "make prompts" not in drawn


@pytest.mark.parametrize(
    ("refused", "title", "remedy"),
    [
        (Refused(401, "unauthorized", "an API key is needed"), "API key is needed", "at the top"),
        (Refused(401, "unauthorized", "this API key is not known here"), "not known", "Check the key"),
        (Refused(429, "overloaded", "overloaded", 1), "busy", "in 1 second."),
        (Refused(429, "quota_exceeded", "may have 5", 30), "used up", "in 30 seconds."),
        (Refused(413, "request_too_large", "too large"), "Too much", "fewer or shorter"),
        (Refused(503, "not_ready", "no engine"), "loading", "Try again in a moment."),
        (Refused(504, "deadline_exceeded", "late"), "too long", "fewer or shorter"),
        (Refused(0, "unreachable", "gone"), "No service there", "log"),
        (Refused(500, "", "HTTP 500"), "failed", "log"),
        (Refused(418, "", "HTTP 418"), "failed", "log"),
        (Refused(400, "invalid_request", "documents: must not be empty"), "not understood", "names"),
    ],
)
def test_every_refusal_says_what_to_do(refused: Refused, title: str, remedy: str) -> None:
    advised = advice(refused)
    assert title in advised.title
    assert remedy in advised.remedy
