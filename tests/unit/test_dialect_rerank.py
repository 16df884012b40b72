"""What clients really send must be read, and what they choke on must not be sent (facts measured client by client)."""

import json
import tracemalloc
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import LimitsConfig
from reranker.dialects import parse as parsing
from reranker.dialects.answers import error_body
from reranker.dialects.base import RankingCall
from reranker.dialects.parse import _structure, parse
from reranker.errors import EngineFailedError, InvalidRequestError, RequestTooLargeError
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, RankedDocument, Ranking, RankRequest

RANKING = Ranking(
    results=(RankedDocument(1, 0.9, 2.2), RankedDocument(0, 0.25, -1.1, truncated=True, windows=3)),
    excluded=(),
    prompt_tokens=123,
    truncated_documents=1,
    windowed_documents=1,
)


RECORD = RequestRecord("id-1")


def _ask(max_documents: int = 1_000, **body: Any) -> RankingCall:
    return parse(json.dumps(body).encode(), None, LimitsConfig(max_documents=max_documents))


def _parse(max_documents: int = 1_000, **body: Any) -> RankRequest:
    [request] = _ask(max_documents, **body).lists
    return request


def _respond(ranking: Ranking = RANKING, **body: Any) -> Any:
    return _ask(**body).write([ranking], "demo", RECORD)


def test_null_for_every_optional_field_is_as_if_absent() -> None:
    """langchain-cohere, haystack-jina, xinference and Dify send null for what is not set."""
    fields = ("model", "top_n", "return_documents", "instruction", "max_tokens_per_doc", "rank_fields")
    nothing: dict[str, Any] = dict.fromkeys(fields)
    assert _parse(query="q", documents=["a"], **nothing) == _parse(query="q", documents=["a"])


def test_documents_may_be_strings_and_objects() -> None:
    request = _parse(query="q", documents=["a", {"text": "b", "title": "ignored"}])
    assert request.documents == ("a", "b")


@pytest.mark.parametrize(("sent", "meant"), [(0, None), (None, None), (1, 1), ("2", 2), (50, 50)])
def test_top_n(sent: object, meant: int | None) -> None:
    request = _parse(query="q", documents=["a", "b"], top_n=sent)
    assert request.top_n == meant


@pytest.mark.parametrize("value", [True, "true", "True", 1])
def test_booleans_may_be_strings(value: object) -> None:
    """RAGFlow's xinference client sends "true"."""
    assert _ask(query="q", documents=["a"], return_documents=value).body.return_documents is True


def test_blank_documents_are_documents() -> None:
    request = _parse(query="q", documents=["", " ", "\n"])
    assert request.documents == ("", " ", "\n")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": None, "documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": " \n", "documents": ["a"]}, "query"),
        ({"query": 5, "documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": None}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"query": "q", "documents": ["a", None]}, "documents[1]"),
        ({"query": "q", "documents": ["a", 7]}, "documents[1]"),
        ({"query": {"title": "no text"}, "documents": ["a"]}, "query"),
        ({"query": {"text": ["q"]}, "documents": ["a"]}, "query.text"),
        ({"query": "q", "documents": ["a", {}]}, "documents[1]"),
        ({"query": "q", "documents": [{"image": "data:"}]}, "documents[0]"),
        ({"query": "q", "documents": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "documents[0]"),
        ({"query": "q", "documents": [{"content": [{"type": "image_url"}]}]}, "documents[0].content[0]"),
        ({"query": "q", "documents": [{"title": "t"}], "rank_fields": ["body"]}, "documents[0]"),
        ({"query": "q", "documents": ["a"], "rank_fields": [3]}, "rank_fields[0]"),
        (
            {"query": "q", "documents": ["a"], "chat_template_kwargs": {"instruction": 3}},
            "chat_template_kwargs.instruction",
        ),
        ({"query": "q", "documents": [{"text": 3}]}, "documents[0].text"),
        ({"query": "q", "documents": ["a"], "top_n": -1}, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": 1.5}, "top_n"),
        ({"query": "q", "documents": ["a"], "return_documents": "perhaps"}, "return_documents"),
        ({"query": "q", "documents": ["a"], "instruction": ["x"]}, "instruction"),
        ({"query": "q", "documents": ["a"], "max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"query": "q", "documents": ["a"], "truncation_side": "middle"}, "truncation_side"),
        ({"query": "q", "documents": ["a"], "long_documents": "split"}, "long_documents"),
        ({"query": "q", "documents": ["a"], "score_threshold": 2}, "score_threshold"),
        ({"query": "q", "documents": ["a"], "priority": "urgent"}, "priority"),
        ({"query": "q", "documents": ["a"], "priority": True}, "priority"),
        ({"query": "q", "documents": ["a"], "priority": 0.5}, "priority"),
        ({"query": "q", "documents": ["a"], "priority": {"class": "bulk"}}, "priority"),
        ({"query": "q", "documents": ["a"], "timeout_s": 0}, "timeout_s"),
        ({"query": "q", "documents": ["a"], "timeout_s": 1e-9}, "timeout_s"),
        ({"query": "q", "documents": ["a"], "timeout_s": "soon"}, "timeout_s"),
        ({"query": "q", "documents": ["a"], "timeout_s": "nan"}, "timeout_s"),
        ({"query": "q", "documents": ["a"], "allow_partial": "perhaps"}, "allow_partial"),
    ],
)
def test_bad_field_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _parse(**body)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("raw", [b"", b"nope", b"[]", b'"text"', b'{"query": "a', b'{"a": "\xff"}'])
def test_body_that_is_no_json_object_is_the_clients_error(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="body"):
        parse(raw, None, LimitsConfig())


def test_errors_do_not_quote_what_was_sent() -> None:
    """A document must not reach a log by way of an error."""
    for body in ({"query": {"secret": 1}, "documents": ["a"]}, {"query": "q", "documents": [{"text": ["secret"]}]}):
        with pytest.raises(InvalidRequestError) as caught:
            _parse(**body)
        assert "secret" not in str(caught.value)


def test_too_many_documents_names_the_limit() -> None:
    with pytest.raises(RequestTooLargeError, match="3 entries; the limit is 2"):
        _parse(max_documents=2, query="q", documents=["a", "b", "c"])


def test_answer_has_what_clients_require() -> None:
    answer = _respond(query="q", documents=["a", "b"])
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0.25},  # and nothing else: Elasticsearch's reader knows no other field
    ]
    assert (answer["truncated"], answer["windows"]) == ([0], [{"index": 0, "windows": 3}])
    assert (answer["id"], answer["object"], answer["model"]) == ("id-1", "rerank", "demo")
    saved = {"deduplicated_pairs": 0, "cached_documents": 0, "coalesced_documents": 0}
    assert answer["usage"] == {"prompt_tokens": 123, "total_tokens": 123} | saved
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert answer["meta"]["tokens"] == {"input_tokens": 123, "output_tokens": 0}


def test_document_is_there_only_when_asked_for_and_never_null() -> None:
    answer = _respond(query="q", documents=["a", {"text": "b"}], return_documents=True)
    assert [result["document"] for result in answer["results"]] == [{"text": "b"}, {"text": "a"}]


def test_raw_scores_are_log_odds() -> None:
    answer = _respond(query="q", documents=["a", "b"], raw_scores="true")
    assert [result["relevance_score"] for result in answer["results"]] == [2.2, -1.1]


def test_excluded_documents_are_listed_with_their_rule() -> None:
    body: dict[str, Any] = {"query": "q", "documents": ["a", "b", "c"]}
    answer = _respond(replace(RANKING, excluded=(ExcludedDocument(2, "withdrawn"),)), **body)
    assert answer["excluded"] == [{"index": 2, "rule": "withdrawn"}]
    assert "excluded" not in _respond(**body)


def test_metadata_is_what_a_document_brings_besides_its_text() -> None:
    request = _parse(query="q", documents=[{"text": "a", "year": 2020, "tags": ["x"]}, "b"])
    assert request.metadata == ({"year": 2020, "tags": ["x"]}, {})
    assert _parse(query="q", documents=["a", "b"]).metadata == ()


def test_wishes_about_long_documents_are_read() -> None:
    request = _parse(query="q", documents=["a"], max_tokens_per_doc=512, truncation_side="left")
    assert (request.max_document_tokens, request.truncation_side, request.long_documents) == (512, "start", None)
    request = _parse(query="q", documents=["a"], long_documents="windows", window_aggregate="mean", overlap_tokens=0)
    assert (request.long_documents, request.aggregate, request.overlap_tokens) == ("windows", "mean", 0)


def test_max_chunks_per_doc_asks_for_windows() -> None:
    """Cohere v1 cuts long documents into so many chunks and takes the best."""
    request = _parse(query="q", documents=["a"], max_chunks_per_doc=10)
    assert (request.long_documents, request.max_windows) == ("windows", 10)


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (1_000, 10)])
def test_search_units_count_hundreds(documents: int, units: int) -> None:
    answer = _respond(query="q", documents=["a"] * documents)
    assert answer["meta"]["billed_units"]["search_units"] == units


def test_error_body_has_strings_under_every_name_clients_look_for() -> None:
    """Voyage's older client breaks on an `error` object, Jina's on a missing `detail`."""
    body = error_body(InvalidRequestError("query", "must not be empty"))
    assert {body["message"], body["detail"], body["error"]} == {"query: must not be empty"}
    assert body["error_type"] == "invalid_request"
    assert body["field"] == "query"
    assert "field" not in error_body(EngineFailedError())


def test_structured_document_is_ranked_as_yaml() -> None:
    """Cohere's advice for documents with fields, and what its v1 does with `rank_fields`."""
    document = {"title": "Moby-Dick", "year": 1851, "text": "Call me Ishmael.", "标题": "白鲸"}
    [plain] = _parse(query="q", documents=[document]).documents
    assert plain == "Call me Ishmael."
    [chosen] = _parse(query="q", documents=[document], rank_fields=["year", "title", "missing"]).documents
    assert chosen == "year: 1851\ntitle: Moby-Dick\n"
    [only_text] = _parse(query="q", documents=[document], rank_fields=["text"]).documents
    assert only_text == "Call me Ishmael."
    del document["text"]
    [whole] = _parse(query="q", documents=[document]).documents
    assert whole == "title: Moby-Dick\nyear: 1851\n标题: 白鲸\n"


def test_structured_document_comes_back_with_what_it_was_read_as() -> None:
    """Cohere's client reads `document.text`, whatever was sent."""
    answer = _respond(query="q", documents=[{"title": "A"}, {"text": "b", "id": 7}], return_documents=True)
    documents = [result["document"] for result in answer["results"]]
    assert documents == [{"text": "b", "id": 7}, {"text": "title: A\n", "title": "A"}]


def test_content_parts_are_text() -> None:
    """VLLM's and Dify's form of a document; a part that is no text is refused, with its place."""
    parts = {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    request = _parse(query={"text": "q"}, documents=[parts, {"content": "a field of this name"}])
    assert request.documents == ("one\ntwo", "content: a field of this name\n")
    assert request.query == "q"


def test_vllms_other_place_for_the_instruction_is_read() -> None:
    fields: dict[str, Any] = {"query": "q", "documents": ["a"], "chat_template_kwargs": {"instruction": "Find"}}
    assert _parse(**fields).instruction == "Find"
    assert _parse(**fields, instruction="Other").instruction == "Find"  # as in vLLM: the exacter place counts


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"truncate_prompt_tokens": 512, "max_tokens_per_query": 9},
            ("truncate_prompt_tokens", "max_tokens_per_query"),
        ),
        ({"truncate_prompt_tokens": -1, "max_tokens_per_query": 0, "kwargs": "{}", "truncation": "true"}, ()),
        ({"truncation": False, "chat_template": None}, ("truncation",)),
        ({"some_future_field": 3, "user": "me"}, ()),
    ],
)
def test_field_that_would_change_the_ranking_is_named_when_it_is_not_obeyed(
    fields: dict[str, Any], named: tuple[str, ...]
) -> None:
    assert _ask(query="q", documents=["a"], **fields).ignored == named


def test_json_nested_too_deep_is_refused() -> None:
    """Nothing we do with a body recurses as deep as a client pleases."""
    for depth in (40, 5_000):
        raw = b'{"query": "q", "documents": [' + b'{"a":' * depth + b"1" + b"}" * depth + b"]}"
        with pytest.raises(InvalidRequestError, match="nested more than 32 deep"):
            parse(raw, None, LimitsConfig())
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        parse(b"[[]]", None, LimitsConfig())


def test_json_with_too_many_values_is_refused_before_it_is_parsed() -> None:
    """64 MB of "[],[]," would become gigabytes; brackets within texts do not count."""
    limits = LimitsConfig(max_documents=100, max_json_values=100)
    with pytest.raises(RequestTooLargeError, match="JSON values; the limit is 100"):
        parse(b'{"query": "q", "documents": [' + b"[]," * 200 + b"[]]}", None, limits)
    text = '[,]{"\\' * 100
    assert parse(json.dumps({"query": text, "documents": ["a", "b"]}).encode(), None, limits).lists[0].query == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=4),
    max_leaves=20,
)


@given(fields=st.dictionaries(st.text(max_size=5), _JSON, max_size=5), piece=st.integers(1, 30))
def test_large_body_is_parsed_in_pieces_to_the_same(fields: dict[str, Any], piece: int) -> None:
    body = orjson.dumps(fields, option=orjson.OPT_INDENT_2)
    with patch.object(parsing, "_PIECE_BYTES", piece):
        assert parsing.load(body, LimitsConfig(max_nesting=1_000)) == orjson.loads(body)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (b'"query": "%s"', "query"),
        (b'"documents": ["a", "%s"]', "documents[1]"),
        (b'"documents": ["a", {"secret": {"b": ["%s"]}}]', "documents[1]"),
        (b'"secret": "%s"', "body"),
    ],
)
def test_text_beyond_what_is_done_in_one_go_is_refused(fields: bytes, named: str) -> None:
    """The place is said, but no name that a document has for its fields."""
    limits = LimitsConfig(max_text_bytes=2**20)
    fits, too_long = b"a" * (2**20 - 2), b"a" * (2**20 - 1)
    parsing.load(b"{%s}" % (fields % fits), limits)
    with pytest.raises(RequestTooLargeError, match="1048577 bytes of text; the limit is 1048576") as refused:
        parsing.load(b"{%s}" % (fields % too_long), limits)
    assert refused.value.field == named


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'{"a": "%s', "not JSON"),
        (b'{"a": ["%s", "\xff"]}', "body is not UTF-8"),
        (b'{"a": "%s"} b', "not JSON"),
        (b'{"\xff": "%s"}', "body is not UTF-8"),
        (b'["%s"]', "must be a JSON object"),
        (b'{"a": ' + b"[" * 100 + b'"%s"' + b"]" * 100 + b"}", "nested more than 32 deep"),
        (b'{"a": ' + b"[" * 100_000 + b'"%s"' + b"]" * 100_000 + b"}", "nested more than 32 deep"),
    ],
)
def test_large_body_that_is_no_sound_json_is_refused(broken: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(broken.replace(b"%s", b"a" * 2**20), None, LimitsConfig())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"documents":["%s"]}' % (b"," * 60_000), 60_018 + 2 * 80 + 2 * 250),
        (b'{"documents":[%s]}' % b",".join([b"{}"] * 60_000), 180_015 + 120_001 * 80 + 60_002 * 250),
        ('{"documents":["é"]}'.encode(), 4 * 20 + 2 * 80 + 2 * 250),
        (b"[" * 2_000_000, 2_000_000),  # is refused, and would else seem larger than all memory
    ],
)
def test_memory_of_a_body_s_values_is_known_before_they_are_made(body: bytes, expected: int) -> None:
    """Brackets in texts are none; a wide character takes four bytes, and all others of its text with it."""
    assert parsing.parsed_bytes(body, LimitsConfig()) == expected


def test_many_mistakes_cost_no_more_than_one() -> None:
    """Each would be a complaint with its own dictionary: gigabytes for a body of two megabytes."""
    raw = json.dumps({"query": "q", "documents": [1] * 10_000, "rank_fields": [2] * 10_000}).encode()
    tracemalloc.start()
    with pytest.raises(InvalidRequestError, match=r"documents\[0\]: must be a string or an object"):
        parse(raw, None, LimitsConfig())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3_000_000


def test_a_large_body_is_looked_through_in_small_steps() -> None:
    """Nobody else's list gets a turn within one."""
    body = bytearray(b'{"query":"q","documents":["' + b"a, " * 200_000 + b'"]}')
    assert max(len(piece) for piece in parsing._pieces(body)) <= 128 * 1024
    assert b"".join(parsing._pieces(body)) == body


@given(texts=st.lists(st.text(st.sampled_from('ab"\\\\,[{}]\n')), max_size=8), piece=st.integers(2, 9))
def test_values_are_counted_outside_of_texts_only(texts: list[str], piece: int) -> None:
    """However a body is cut into pieces, and whatever its texts hold."""
    body = orjson.dumps({"documents": [{"text": text} for text in texts]})
    empty = orjson.dumps({"documents": [{"text": ""} for _ in texts]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reranker.dialects.parse._STEP_BYTES", piece)
        assert b"".join(_structure(body)) == bytes(byte for byte in empty if byte in b"[]{},")
