"""The playground says where each document went, and shows texts as texts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from deployments.ui import html
from deployments.ui.documents import Document
from deployments.ui.results import (
    Side,
    advice,
    choices,
    difference,
    face,
    omissions,
    prompt,
    rows,
    search_omissions,
    search_rows,
)
from reranker import errors
from reranker.client import rebuild_error
from reranker.errors import RerankerError, UnreachableError

DOCUMENTS: list[Document] = ["first", "second", {"text": "third"}, "fourth"]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> ${alert(3)} {{#each value}} '\" &amp;"


def _answer(*ranked: tuple[int, float], **more: Any) -> dict[str, Any]:
    return {"results": [{"index": index, "relevance_score": score} for index, score in ranked]} | more


def test_ranks_are_compared_with_the_input_order() -> None:
    found = rows(DOCUMENTS, _answer((2, 0.9), (0, 0.5), (1, 0.4)))
    assert [(row.rank, row.place, row.moved, row.text) for row in found] == [
        (1, 2, 2, "third"),
        (2, 0, -1, "first"),
        (3, 1, -1, "second"),
    ]


def _side(*ranked: tuple[int, float], asked: str = "", instruction: str = "", reads: bool = True) -> Side:
    answer = _answer(*ranked, model="demo")
    return Side(asked, instruction, answer, 1.0, reads, rows(DOCUMENTS, answer))


def test_both_of_two_rankings_say_who_moved_from_the_first_to_the_second() -> None:
    first, second = face(_side((1, 0.9), (0, 0.8), (2, 0.1)), _side((0, 0.9), (3, 0.5), (1, 0.2)))
    assert [(row.place, row.moved) for row in first.rows] == [(1, -2), (0, 1), (2, None)]
    assert [(row.place, row.moved) for row in second.rows] == [(0, 1), (3, None), (1, -2)]
    drawn = html.ranking(first.rows, (), "B", later=True)
    assert 'title="is 3 in B">▼ 2<' in drawn
    assert 'title="not in B">gone<' in drawn
    assert 'title="was 2 in A">▲ 1<' in html.ranking(second.rows, (), "A")


def test_documents_that_are_left_out_say_why() -> None:
    answer = _answer((2, 0.9), excluded=[{"index": 0, "rule": "score_threshold"}], unscored=[{"index": 1}])
    assert [(one.place, one.why) for one in omissions(DOCUMENTS, answer, 1)] == [
        (0, "below the threshold"),
        (1, "not scored in time"),
        (3, "not among the best 1"),
    ]


def test_what_happened_to_a_long_document_is_said() -> None:
    answer: dict[str, Any] = {"results": [{"index": 0, "relevance_score": 0.1}], "truncated": [0]}
    answer["windows"] = [{"index": 0, "windows": 3}]
    assert rows(DOCUMENTS, answer)[0].marks == ("cut: too long for the model", "scored in 3 windows")


def test_what_made_a_document_relevant_is_marked() -> None:
    spans = [{"start": 6, "end": 10, "score": 0.9}, {"start": 0, "end": 1, "score": 0.5}]
    documents: list[Document] = ["<b> & <i>!", {"field": "is shown otherwise than it was scored"}]
    answer: dict[str, Any] = {
        "results": [{"index": index, "relevance_score": 0.9, "relevant_spans": spans} for index in (0, 1)]
    }
    first, second = rows(documents, answer)
    assert first.pieces == [("", False), ("<", True), ("b> & ", False), ("<i>!", True), ("", False)]
    assert second.spans == ()
    drawn = html.ranking([first, second])
    assert "<mark>&lt;i&gt;!</mark>" in drawn
    assert drawn.count("<mark>") == 2


def test_two_rankings_differ_in_words() -> None:
    first = _side((0, 0.9), (1, 0.5), (2, 0.4), (3, 0.1))
    assert difference(first, _side((0, 0.8), (1, 0.7), (2, 0.4), (3, 0.1))) == "Both give the same order."
    said = "3 of 4 documents have another rank. The best one is the same. Document 4 moves most: from rank 4 to 2."
    assert difference(first, _side((0, 0.9), (3, 0.8), (1, 0.5), (2, 0.4))) == said


def test_why_two_rankings_are_the_same_is_said() -> None:
    ranked = ((1, 0.90001), (0, 0.5))
    plain, other = _side(*ranked), _side((1, 0.9), (0, 0.5), instruction="other")
    assert difference(plain, _side(*ranked)) == "Both are the same: they were asked the same."
    assert difference(plain, other) == "Both are the same: the instruction changes no score of demo."
    assert difference(plain, other._replace(reads=False)) == "Both are the same: demo reads no instruction."
    assert difference(plain, other._replace(asked="fast")) == "Both give the same order.", "another model"


def test_a_cascade_s_documents_say_who_ranked_them_again() -> None:
    answer = _answer((1, 0.9), (0, 0.5), stages={"first": "fast", "then": "best", "ranked_again": [1]}, model="careful")
    first, second = rows(DOCUMENTS, answer)
    assert (first.marks, second.marks) == (("ranked again by best",), ())
    assert "could not rank" not in html.facts(answer, 2, 1.0)
    answer["stages"] = {"first": "fast", "then": "best", "ranked_again": [], "missed": "overloaded"}
    assert "best could not rank in time: it is fast's ranking" in html.facts(answer, 2, 1.0)


def test_a_model_that_reads_no_instruction_is_said_to() -> None:
    assert "model demo, which reads no instruction" in html.facts(_answer(model="demo"), 1, 1.0, False)


def test_models_adapters_and_cascades_are_told_apart() -> None:
    cards: list[dict[str, Any]] = [
        {"id": "fast"},
        {"id": "law", "parent": "fast"},
        {"id": "careful", "cascade": ["fast", "best"]},
    ]
    named = {"fast": "fast", "law": "law: adapter of fast", "careful": "careful: fast, then best"}
    assert choices("", cards) == named
    assert choices("candidate", cards)["careful"] == "candidate / careful: fast, then best"


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE * 100])
def test_nothing_that_comes_from_outside_becomes_html(text: str) -> None:
    """Documents are untrusted, and so are a model's name, a rule's, a replica's, and what a service says."""
    answer = _answer((0, 0.5), model=text, usage={"total_tokens": 1}, meta={"shards": 1, "replicas": 1})
    answer["excluded"] = [{"index": 1, "rule": text}]
    answer["stages"] = {"first": text, "then": text, "ranked_again": [0], "missed": text}
    answer["timings"] = {"total_ms": 2.0, "stages_ms": {text: 1.0}, "shards": [{"replica": text, "documents": [0]}]}
    documents = [text, text]
    drawn = (
        html.ranking(rows(documents, answer), omissions(documents, answer, None), text)
        + html.facts(answer, 1, 1.0)
        + html.timing(answer)
        + html.refusal(advice(rebuild_error(text, 400, text)))
        + html.side(text, html.note(text) + html.hint(text), text)
    )
    assert "&lt;img" in drawn
    assert not re.search(r"<(img|script)|onerror=alert\(1\)>", drawn)


def test_a_huge_list_is_drawn_in_part() -> None:
    documents = [f"number {place}" for place in range(5_000)]
    drawn = html.ranking(rows(documents, _answer(*((place, 0.5) for place in range(5_000)))))
    assert "and 4,800 more" in drawn
    assert len(drawn) < 200_000


def test_stages_come_from_the_answer_if_it_has_them() -> None:
    assert "make prompts" not in html.timing({})
    timings = {"total_ms": 4.0, "stages_ms": {"tokenize": 3.0}, "shards": [{"replica": None, "documents": None}]}
    drawn = html.timing({"timings": timings})
    assert "make prompts" in drawn
    assert "none in time" in drawn


def _answered(error: RerankerError) -> RerankerError:
    """The error as the client makes it of the service's answer."""
    return rebuild_error(error.code, error.status_code, str(error), error.field, error.retry_after_s)


@pytest.mark.parametrize(
    ("error", "title", "remedy"),
    [
        (errors.UnauthorizedError(False), "API key is needed", "at the top"),
        (errors.UnauthorizedError(True), "not known", "Check the key"),
        (errors.ForbiddenError(), "Not allowed", "Use a key"),
        (errors.OverloadedError(3.0, 1), "busy", "in 1 second."),
        (errors.QuotaExceededError("5 requests", 30), "used up", "in 30 seconds."),
        (errors.RequestTooLargeError("body", 9, 8, "bytes"), "Too much", "fewer or shorter"),
        (errors.UrlTooLongError("url", 9, 8, "bytes"), "Too much", "fewer or shorter"),
        (errors.NotReadyError(), "loading", "in 5 seconds."),
        (errors.StartFailedError(), "could not be loaded", "log"),
        (errors.IndexUnavailableError("docs"), "not ready", "in 5 seconds."),
        (errors.DeadlineExceededError(3), "too long", "fewer or shorter"),
        (errors.ReplicaLostError(2), "not ready", "Try again in 2 seconds"),
        (errors.QueryTooLongError(9, 8), "query is too long", "Shorten"),
        (errors.InvalidRequestError("documents", "must not be empty"), "not understood", "names"),
        (errors.UnknownInstructionError(("a",)), "No such instruction", "write the instruction out"),
        (UnreachableError("http://10.0.0.7", "refused"), "No service there", "log"),
        (rebuild_error("", 500, "HTTP 500"), "failed", "log"),
        (rebuild_error("http_404", 404, "no such path"), "Not found", "another version"),
        (rebuild_error("", 429, "HTTP 429"), "busy", "Try again in a moment."),
        (rebuild_error("", 503, "HTTP 503"), "not ready", "Try again in a moment."),
        (rebuild_error("", 413, "HTTP 413"), "Too much", "fewer or shorter"),
        (rebuild_error("new_in_another_version", 422, "HTTP 422"), "not understood", "names"),
    ],
)
def test_every_error_says_what_to_do(error: RerankerError, title: str, remedy: str) -> None:
    known = error if isinstance(error, UnreachableError) else _answered(error)
    advised = advice(known)
    assert title in advised.title
    assert remedy in advised.remedy
    assert "10.0.0.7" not in advised.message, "where the service is is not for visitors"


@pytest.mark.parametrize("kind", errors.for_clients())
def test_an_error_that_is_new_has_advice_from_the_one_above_it(kind: type[RerankerError]) -> None:
    new = type("NewError", (kind,), {"code": "brand_new", "__init__": lambda _: None, "__str__": lambda _: "new"})()
    old = advice(rebuild_error(kind.code, kind.status_code, "new"))
    assert advice(new).title == old.title


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
    first, second = search_rows(ANSWER)
    assert (first.rank, first.moved, first.name, first.text) == (1, 3, "b.md, chunk 3", "B\n<b>two</b>")
    assert (second.rank, second.moved, second.name, second.marks) == (2, -1, "a.md", ("cut: too long for the model",))
    shown = html.ranking(search_rows(ANSWER), search_omissions(ANSWER), "the first stage")
    assert "b.md, chunk 3" in shown
    assert "was 4 in the first stage" in shown
    assert "<b>two</b>" not in shown  # a document is text


def test_what_is_search_omissions_is_named_with_its_reason() -> None:
    assert [(one.name, one.why) for one in search_omissions(ANSWER)] == [
        ("c.md", "excluded by the rule withdrawn"),
        ("d.md, chunk 2", "below the threshold"),
    ]


def test_prompt_has_the_passages_and_the_question() -> None:
    asked = prompt("why?", ANSWER)
    assert asked.index("[1] b.md") < asked.index("[2] a.md") < asked.index("Question: why?")
