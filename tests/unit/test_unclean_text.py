"""Text that is not clean Unicode is ranked where it can be, and its place is named where not; in bodies of any size."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.config import LimitsConfig
from reranker.dialects import parse as parsing
from reranker.dialects.parse import load, parse
from reranker.errors import InvalidRequestError, RequestTooLargeError, RerankerError, UnknownCharsetError

LIMITS = LimitsConfig()
HIGH, LOW = rb"\ud83d", rb"\uDE00"
_ATOMS = [HIGH, LOW, HIGH + LOW, rb"\\", rb"\n", rb"\"", rb"\u0041", b"ud83d", b"ude00", b"a", b"d8", rb"\u0000"]
_ATOMS += ["é".encode(), "中".encode(), "😀".encode(), rb"\\ud83d", rb"\\\ude00"]
_texts = st.lists(st.sampled_from(_ATOMS), max_size=40).map(b"".join)


def _clean(value: Any) -> Any:  # Any: JSON
    """U+FFFD for each lone surrogate: what the standard library gives, mended."""
    if isinstance(value, str):
        return "".join("\ufffd" if 0xD800 <= ord(one) < 0xE000 else one for one in value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return {_clean(name): _clean(one) for name, one in value.items()} if isinstance(value, dict) else value


@given(query=_texts, documents=st.lists(_texts, max_size=4), key=_texts, piece=st.integers(40, 200))
def test_lone_surrogates_are_mended_alike_in_small_bodies_and_in_pieces(
    query: bytes, documents: list[bytes], key: bytes, piece: int
) -> None:
    listed = b",".join(b'"%s"' % one for one in documents)
    body = b'{"query": "%s", "documents": [%s, {"text": "%s"}, {}], "k%s": {}}' % (query, listed or b"1", query, key)
    wanted = _clean(json.loads(body))
    assert load(body, LIMITS) == wanted
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parsing, "_PIECE_BYTES", piece)
        patched.setattr(parsing, "_STEP_BYTES", piece)
        assert load(body, LIMITS) == wanted


@given(
    query=_texts,
    bad=st.sampled_from([b"\xed\xa0\xbd", b"\\", b'"', b"\xff", b"\0", rb"\u", b",", b"\xc3", b"\xe4\xb8"]),
    place=st.integers(1, 500),
    piece=st.integers(40, 200),
)
def test_broken_bodies_are_refused_or_read_alike_in_one_go_and_in_pieces(
    query: bytes, bad: bytes, place: int, piece: int
) -> None:
    body = b'{"query": "%s", "documents": ["%s"]}' % (query, query)
    body = body[:place] + bad + body[place:]
    results: list[Any] = []
    for size in (2**20, piece):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(parsing, "_PIECE_BYTES", size)
            patched.setattr(parsing, "_STEP_BYTES", size)
            try:
                results.append(load(body, LIMITS))
            except RerankerError as error:
                results.append(type(error))
    assert results[0] == results[1]


def test_clean_body_is_parsed_once_and_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_as_unicode", None)
    body = orjson.dumps({"query": "a\0b \ufeff 😀", "documents": ["é" * 2**20, "a"]})
    assert parse(body, None, LIMITS).lists[0].query == "a\0b \ufeff 😀"


@pytest.mark.parametrize("size", [1, 2**20])
@pytest.mark.parametrize(
    ("document", "read"),
    [
        (HIGH + b" end", "\ufffd end"),
        (LOW + HIGH, "\ufffd\ufffd"),
        (HIGH + LOW, "😀"),
        (rb"\\ud83d", "\\ud83d"),
        (b"\xed\xa0\xbd.", "\ufffd."),  # a half of a pair, written as if it were a character
        (rb"a\u0000b", "a\0b"),
        ("\ufeffa".encode(), "\ufeffa"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_document_is_ranked_as_far_as_it_can_be_read(document: bytes, read: str, size: int, mark: bytes) -> None:
    body = mark + b'{"query": "%s", "documents": ["%s", "%s"]}' % (document, b"a" * size, document)
    [request] = parse(body, None, LIMITS).lists
    assert (request.query, request.documents[1]) == (read, read)


@pytest.mark.parametrize("size", [1, 2**21])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (b'"query": "q", "documents": ["%s", "b\xff"]', "documents[1]"),
        (b'"query": "q", "documents": ["%s", {"text": "b", "more": {"\xe4\xb8": 1}}]', "documents[1]"),
        (b'"input": {"query": "q", "documents": ["%s", "b\xff"]}', "documents[1]"),
        (b'"input": {"query": "q\xff", "documents": ["%s", "b"]}', "query"),
        (b'"input": {"query": "q", "documents": ["%s"]}, "parameters": {"instruct": "\xff"}', "instruct"),
        (b'"query": {"text": "\xff"}, "passages": ["%s", "b"]', "query"),
        (b'"documents": ["%s"], "query": "caf\xe9"', "query"),
        (b'"query": "q", "documents": ["%s"], "instruction": "\xff"', "instruction"),
        (b'"query": "q", "documents": ["%s"], "\xff": "a"', ""),
        (b'"query": "q", "documents": ["%s"], "other": "\xff"', ""),
    ],
)
def test_text_that_is_not_utf8_is_named_by_its_place(fields: bytes, named: str, size: int) -> None:
    with pytest.raises(InvalidRequestError, match="is not UTF-8") as refused:
        parse(b"{" + fields.replace(b"%s", b"a" * size) + b"}", None, LIMITS)
    assert refused.value.field == named


@pytest.mark.parametrize("size", [1, 2**20])
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO-8859-1", "café"),
        ("windows-1252", "“café”"),
        ("gbk", "北京是首都"),
        ("GB18030", "北京 😀"),
        ("Big5", "台北"),
        ("Shift_JIS", "表示"),  # whose bytes have a backslash in them
        ("euc-kr", "서울"),
        ("koi8-r", "Москва"),
        ("utf-8", "café"),
    ],
)
def test_body_in_the_charset_that_its_content_type_names_is_read(charset: str, text: str, size: int) -> None:
    body = json.dumps({"query": text, "documents": [text, "a" * size]}, ensure_ascii=False)
    [request] = parse(body.encode(charset), None, LIMITS, charset=charset).lists
    assert (request.query, request.documents[0]) == (text, text)
    [request] = parse(body.encode(), None, LIMITS, charset=charset).lists  # JSON is UTF-8, whatever a header says
    assert (request.query, request.documents[0]) == (text, text)


@pytest.mark.parametrize("named", ["", "utf-16", "utf-16le", "utf-32", "utf-8"])
@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_refused(charset: str, named: str) -> None:
    with pytest.raises(UnknownCharsetError, match="UTF-8"):
        parse('{"query": "q", "documents": ["é"]}'.encode(charset), None, LIMITS, charset=named)


@pytest.mark.parametrize("named", ["utf-7", "punycode", "idna", "unicode_escape", "rot13", "nonsense", "zlib"])
def test_other_charsets_are_refused_unless_the_body_is_utf8_after_all(named: str) -> None:
    """Of Python's codecs some take quadratic time, and some are no charsets."""
    assert parse(b'{"query": "q", "documents": ["a"]}', None, LIMITS, charset=named).lists[0].query == "q"
    with pytest.raises(UnknownCharsetError):
        parse(b'{"query": "q\xe9", "documents": ["a"]}', None, LIMITS, charset=named)


def test_what_a_charset_makes_of_a_body_is_within_the_limit() -> None:
    limits = LimitsConfig(max_request_bytes=50, max_bytes_in_hand=50)
    with pytest.raises(RerankerError, match="limit is 50"):
        parse(b'{"query": "q", "documents": ["%s"]}' % (b"\xe9" * 16), None, limits, charset="latin-1")


def test_values_are_counted_in_the_charset_that_they_are_read_in() -> None:
    """The last byte of this character is a backslash's: read as UTF-8, the quote after it would end no text."""
    body = '{"query": "表", "documents": [' + "[]," * 200 + "[]]}"
    limits = LimitsConfig(max_json_values=100, max_documents=100)
    with pytest.raises(RequestTooLargeError, match="JSON values"):
        load(body.encode("shift_jis"), limits, "shift_jis")
