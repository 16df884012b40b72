"""What the search tabs show: documents by their names, how reranking moved them, what was left out, a prompt."""

from __future__ import annotations

from typing import Any

from deployments.ui import html
from deployments.ui.search_results import found_rows, left_out, prompt

ANSWER: dict[str, Any] = {
    "results": [
        {"id": "b.md", "chunk": 2, "text": "<b>two</b>", "title": "B", "relevance_score": 0.9, "first_stage_rank": 4},
        {"id": "a.md", "chunk": 0, "text": "one", "relevance_score": 0.2, "first_stage_rank": 1, "truncated": True},
    ],
    "excluded": [
        {"id": "c.md", "chunk": 0, "rule": "withdrawn"},
        {"id": "d.md", "chunk": 1, "rule": "score_threshold"},
    ],
}


def test_results_say_how_far_reranking_moved_them() -> None:
    first, second = found_rows(ANSWER)
    assert (first.rank, first.moved, first.name, first.text) == (1, 3, "b.md, chunk 3", "B\n<b>two</b>")
    assert (second.rank, second.moved, second.name, second.marks) == (2, -1, "a.md", ("cut: too long for the model",))
    shown = html.ranking(found_rows(ANSWER), left_out(ANSWER), "the first stage")
    assert "b.md, chunk 3" in shown
    assert "was 4 in the first stage" in shown
    assert "<b>two</b>" not in shown  # a document is text


def test_what_is_left_out_is_named_with_its_reason() -> None:
    assert [(one.name, one.why) for one in left_out(ANSWER)] == [
        ("c.md", "excluded by the rule withdrawn"),
        ("d.md, chunk 2", "below the threshold"),
    ]


def test_prompt_has_the_passages_and_the_question() -> None:
    asked = prompt("why?", ANSWER)
    assert asked.index("[1] b.md") < asked.index("[2] a.md") < asked.index("Question: why?")
