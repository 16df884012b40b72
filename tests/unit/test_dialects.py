"""Which dialect a body is in, and what TEI's, Voyage's, Infinity's and vLLM's score clients send, read and choke on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from reranker.config import LimitsConfig
from reranker.dialects import COMPLETE, DIALECTS, PATHS, deepinfra
from reranker.dialects.base import Dialect, RankingCall
from reranker.dialects.parse import parse
from reranker.errors import (
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    OverloadedError,
    RequestTooLargeError,
)
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, RankedDocument, Ranking

RANKING = Ranking(
    results=(RankedDocument(1, 0.9, 2.2), RankedDocument(0, 0.25, -1.1, truncated=True)),
    excluded=(),
    prompt_tokens=123,
    truncated_documents=1,
    windowed_documents=0,
)
RECORD = RequestRecord("id-1")


def _ask(path: str = "/v1/rerank", **body: Any) -> RankingCall:
    return parse(json.dumps(body).encode(), PATHS[path], LimitsConfig(max_documents=10))


def _error(path: str, **body: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        _ask(path, **body)
    return caught.value


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, "rerank"),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "top_n": None}, "rerank"),
        ("/rerank", {"query": "q", "texts": ["a"], "raw_scores": False}, "tei"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "top_k": None}, "voyage"),
        ("/rerank", {"query": "q", "documents": ["a"], "raw_scores": False}, "infinity"),
        ("/infinity/rerank", {"query": "q", "documents": ["a"]}, "infinity"),
        ("/voyage/v1/rerank", {"query": "q", "documents": ["a"]}, "voyage"),
        ("/rerank", {"query": "q", "input": ["a"]}, "mixedbread"),
        ("/rerank", {"input": {"query": "q", "documents": ["a"]}}, "dashscope"),
        ("/pinecone/rerank", {"query": "q", "documents": ["a"]}, "pinecone"),
        ("/sglang/v1/rerank", {"query": "q", "documents": ["a"]}, "sglang"),
        ("/v1/models/rerank", {"query": "q", "documents": ["a"]}, "zeroentropy"),
        ("/milvus/voyage/v1/rerank", {"query": "q", "documents": ["a"]}, "voyage"),
        ("/elastic/list/rerank", {"query": "q", "documents": ["a"]}, "list"),
        ("/score", {"text_1": "q", "text_2": ["a"]}, "score"),
        ("/v1/score", {"queries": "q", "documents": ["a"]}, "score"),
    ],
)
def test_dialect_is_chosen_by_the_body_and_by_the_path_where_bodies_are_alike(
    path: str, fields: dict[str, Any], name: str
) -> None:
    """LiteLLM sends the same bytes to vLLM and to Infinity, and wants two answers: only the path can say."""
    assert _ask(path, **fields).dialect.name == name


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_example_of_the_docs_is_read(dialect: Dialect) -> None:
    for example in dialect.examples.values():
        call = parse(json.dumps(example).encode(), dialect, LimitsConfig())
        assert call.lists
        assert not call.ignored


API_PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"http://HOST:8000([/\w-]*)", API_PAGE))))
def test_every_url_of_the_docs_is_answered_or_is_the_beginning_of_one_that_is(path: str) -> None:
    assert any(one == path or one.startswith(path.rstrip("/") + "/") for one in PATHS)


@pytest.mark.parametrize("block", re.findall(r"```(?:json\n(?:PUT|POST) .*?\n|yaml\n)(.*?)```", API_PAGE, re.DOTALL))
def test_every_configuration_of_the_docs_can_be_pasted(block: str) -> None:
    assert "HOST:8000" in block or "JINA_API_URL" in block
    assert yaml.safe_load(block)


def test_every_requests_body_of_the_docs_is_one_that_is_read() -> None:
    """What Elasticsearch and OpenSearch fill in."""
    templates = re.findall(r'"request(?:_body)?": (".*")', API_PAGE)
    assert len(templates) == 2
    for template in templates:
        filled = re.sub(r"\$\{[\w.]*(documents|input)\}", '["a"]', json.loads(template))
        filled = re.sub(r'(?<!")\$\{query\}', '"q"', filled)
        assert _ask("/elastic/v1/rerank", **json.loads(filled)).lists[0].documents == ("a",)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_null_is_as_if_absent_for_every_optional_field_of_every_dialect(path: str) -> None:
    """Half of the clients send null for what is not set."""
    body = {"query": "q", "documents": ["a"], "queries": "q", "passages": ["a"]}
    if path.startswith("/mixedbread"):
        body["input"] = ["a"]
    [asked] = _ask(path, **body).lists
    dialect = _ask(path, **body).dialect
    nothing = dict.fromkeys(dialect.body.model_fields.keys() - body.keys() - {"texts"})
    [same] = parse(json.dumps(body | nothing).encode(), dialect, LimitsConfig()).lists
    assert same == asked


def test_infinity_gives_documents_as_strings() -> None:
    answer = _ask(query="q", documents=["a", {"text": "b"}], raw_scores=False, return_documents=True).write(
        [RANKING], "demo", RECORD
    )
    assert [result["document"] for result in answer["results"]] == ["b", "a"]
    assert answer["object"] == "rerank"


def test_voyage_has_results_under_data() -> None:
    call = _ask(query="q", documents=["a", "b"], top_k=2, return_documents=True, truncation=True)
    assert call.lists[0].top_n == 2
    answer = call.write([RANKING], "demo", RECORD)
    assert answer["data"] == [
        {"index": 1, "relevance_score": 0.9, "document": "b"},
        {"index": 0, "relevance_score": 0.25, "document": "a"},
    ]
    assert answer["truncated"] == [0]
    assert (answer["object"], answer["usage"]["total_tokens"]) == ("list", 123)
    assert (
        "document" not in _ask(query="q", documents=["a", "b"], top_k=None).write([RANKING], "demo", RECORD)["data"][0]
    )


@pytest.mark.parametrize(("fields", "meant"), [({"top_k": 3, "top_n": 2}, 3), ({"top_k": None, "top_n": 2}, 2)])
def test_voyage_on_its_own_path_takes_top_n_too(fields: dict[str, Any], meant: int) -> None:
    assert _ask("/voyage/v1/rerank", query="q", documents=["a"], **fields).lists[0].top_n == meant


def test_pinecone_has_documents_unless_it_wants_none_and_parameters_count() -> None:
    call = _ask(
        "/pinecone/rerank", query="q", documents=["a", {"id": "7", "text": "b"}], parameters={"truncate": "NONE"}
    )
    assert call.ignored == ("truncate",)
    answer = call.write([RANKING], "demo", RECORD)
    assert answer["data"] == [
        {"index": 1, "score": 0.9, "document": {"id": "7", "text": "b"}},
        {"index": 0, "score": 0.25, "document": {"text": "a"}},
    ]
    assert (answer["usage"]["rerank_units"], answer["truncated"]) == (1, [0])
    none = _ask("/pinecone/rerank", query="q", documents=["a", "b"], return_documents=False)
    assert none.write([RANKING], "demo", RECORD)["data"][0] == {"index": 1, "score": 0.9}
    assert _ask("/pinecone/rerank", query="q", documents=["a"], parameters={"top_n": 3}).lists[0].top_n == 3


def test_mixedbread_gives_the_input_back_as_it_came() -> None:
    call = _ask(query="q", input=["a", {"title": "b"}], top_k=2, return_input=True, rank_fields=None)
    assert call.lists[0].documents == ("a", "title: b\n")
    answer = call.write([RANKING], "demo", RECORD)
    assert answer["data"] == [
        {"index": 1, "score": 0.9, "object": "rank_result", "input": {"title": "b"}},
        {"index": 0, "score": 0.25, "object": "rank_result", "input": "a"},
    ]
    assert (answer["top_k"], answer["return_input"]) == (2, True)


def test_sglang_gives_documents_in_a_bare_list() -> None:
    call = _ask("/sglang/v1/rerank", query="q", documents=["a", "b"], return_documents=True)
    assert call.write([RANKING], "demo", RECORD)[0] == {"index": 1, "score": 0.9, "document": "b"}


def test_deepinfra_gives_scores_by_position_and_always_all() -> None:
    call = _ask(deepinfra.DIALECT.paths[0], queries=["q", "q"], documents=["a", "b"], complete=False)
    assert [one.complete for one in call.lists] == [True]
    assert call.write([RANKING], "demo", RECORD)["scores"] == [0.25, 0.9]


@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith(tuple(COMPLETE))])
def test_path_of_a_client_that_counts_on_every_document_gives_it_all_of_them(path: str) -> None:
    for said in ({}, {"complete": False}, {"complete": None}):
        assert _ask(path, query="q", documents=["a"], **said).lists[0].complete is True
    assert _ask(query="q", documents=["a"], complete=False).lists[0].complete is False
    assert _ask(query="q", documents=["a"]).lists[0].complete is None  # as the key or the service has it


def test_tei_gives_a_bare_list() -> None:
    call = _ask(query="q", texts=["a", "b"], return_text="true", truncation_direction="Left", truncate=False)
    assert call.lists[0].truncation_side == "start"
    assert call.ignored == ("truncate",)
    assert call.write([RANKING], "demo", RECORD) == [
        {"index": 1, "score": 0.9, "text": "b"},
        {"index": 0, "score": 0.25, "text": "a"},
    ]
    raw = _ask(query="q", texts=["a", "b"], raw_scores=True, truncation_direction="Right", top_n=9)
    assert raw.write([RANKING], "demo", RECORD) == [{"index": 1, "score": 2.2}, {"index": 0, "score": -1.1}]
    assert (raw.lists[0].truncation_side, raw.lists[0].top_n) == ("end", 9)


def test_tei_errors_have_teis_words() -> None:
    dialect = _ask(query="q", texts=["a"]).dialect
    bad = dialect.error(InvalidRequestError("texts[0]", "must be a string or an object"))
    assert (bad["error_type"], bad["code"]) == ("Validation", "invalid_request")
    assert dialect.error(OverloadedError(3.0, 2))["error_type"] == "Overloaded"
    assert dialect.error(InternalError())["error_type"] == "Backend"
    assert dialect.error(MethodNotAllowedError("POST"))["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("left", "right"),
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
def test_score_takes_all_of_vllms_names(left: str, right: str) -> None:
    [request] = _ask("/score", **{left: "q", right: ["a", {"content": [{"type": "text", "text": "b"}]}]}).lists
    assert (request.query, request.documents) == ("q", ("a", "b"))


def test_score_answers_in_the_order_of_the_pairs() -> None:
    answer = _ask("/v1/score", text_1="q", text_2=["a", "b"]).write([RANKING], "demo", RECORD)
    assert answer["data"] == [
        {"index": 0, "object": "score", "score": 0.25},
        {"index": 1, "object": "score", "score": 0.9},
    ]
    assert answer["truncated"] == [0]
    assert (answer["object"], answer["model"], answer["usage"]["prompt_tokens"]) == ("list", "demo", 123)


def test_score_of_one_pair_is_one_score() -> None:
    one = Ranking((RankedDocument(0, 0.5, 0.0),), prompt_tokens=10)
    call = _ask("/score", text_1="q", text_2="a", use_activation=False)
    assert call.write([one], "demo", RECORD)["data"] == [{"index": 0, "object": "score", "score": 0.0}]


def test_score_one_to_one_groups_pairs_by_query_and_puts_them_back() -> None:
    """Pairs of one query share their prompt's head; the answer is in the order they were sent in."""
    documents: list[Any] = ["a", "b", {"text": "c", "year": 3}]
    call = _ask("/score", queries=["x", "y", "x"], documents=documents)
    assert [(one.query, one.documents) for one in call.lists] == [("x", ("a", "c")), ("y", ("b",))]
    assert call.lists[0].metadata == ({}, {"year": 3})
    x = Ranking((RankedDocument(1, 0.8, 1.4), RankedDocument(0, 0.1, -2.2)), prompt_tokens=10)
    y = Ranking((), (ExcludedDocument(0, "withdrawn"),), 5)
    answer = call.write([x, y], "demo", RECORD)
    assert [(one["index"], one["score"]) for one in answer["data"]] == [(0, 0.1), (2, 0.8)]
    assert answer["excluded"] == [{"index": 1, "rule": "withdrawn"}]
    assert answer["usage"]["total_tokens"] == 15


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({}, "text_1", "send text_1 and text_2"),
        ({"text_1": "q"}, "text_1", "send text_1 and text_2"),
        ({"text_1": [], "text_2": ["a"]}, "text_1", "must not be empty"),
        ({"text_1": "q", "text_2": []}, "text_2", "must not be empty"),
        ({"queries": ["q", "r"], "documents": ["a", "b", "c"]}, "queries", "2 of them for 3 documents"),
        ({"queries": ["q", " "], "documents": ["a", "b"]}, "queries[1]", "must not be empty"),
        ({"text_1": "q", "text_2": ["a", 3]}, "text_2[1]", "must be a string or an object"),
        ({"text_1": 3, "text_2": ["a"]}, "text_1", "must be a string or an object, or a list of these"),
    ],
)
def test_score_says_what_is_wrong_with_its_sides(fields: dict[str, Any], field: str, problem: str) -> None:
    error = _error("/score", **fields)
    assert error.field == field
    assert error.problem.startswith(problem)


def test_score_errors_are_vllms_with_an_object_under_error() -> None:
    dialect = PATHS["/score"]
    assert dialect is not None
    body = dialect.error(InvalidRequestError("text_1", "must not be empty"))
    said = "text_1: must not be empty"
    assert body["error"] == {"message": said, "type": "invalid_request", "param": "text_1", "code": 400}
    assert body["message"] == body["detail"] == said


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/rerank", {"query": "q", "texts": ["a"] * 11}),
        ("/score", {"text_1": "q", "text_2": ["a"] * 11}),
        ("/score", {"data_1": "q", "data_2": ["a"] * 11}),
        ("/score", {"queries": ["q"] * 11, "documents": ["a"]}),
    ],
)
def test_too_many_documents_are_refused_under_every_name(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestTooLargeError, match="11 entries; the limit is 10"):
        _ask(path, **fields)
