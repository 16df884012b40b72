"""The playground reads what people have: lines, tables, JSON lines; what it cannot read it names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ui.documents import Document, UnreadableError, format_documents, parse_documents, read_file, text_of


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("one\n\n  two  \r\nthree\r", ["one", "two", "three"]),
        ('"a\\nb"\n{"text": "c", "year": 1}', ["a\nb", {"text": "c", "year": 1}]),
        ('"quoted", she said\nplain', ['"quoted", she said', "plain"]),
        ("{not json}\n{neither}", ["{not json}", "{neither}"]),
        ("one\u2028line", ["one\u2028line"]),
        ("  \n ", []),
    ],
)
def test_documents_are_typed_one_a_line(text: str, documents: list[Document]) -> None:
    assert parse_documents(text) == documents


@given(st.lists(st.text(min_size=1) | st.dictionaries(st.text(), st.text() | st.integers(), min_size=1), min_size=1))
def test_what_is_shown_of_a_file_is_what_will_be_ranked(documents: list[Document]) -> None:
    """A document with a line break in it must not become two."""
    assert parse_documents(format_documents(documents)) == documents


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", "\ufeffone\r\n\r\ntwo\n", ["one", "two"]),
        ("a.TXT", "北京\n上海", ["北京", "上海"]),
        ("a.jsonl", '"one"\n\n{"text": "two"}\n', ["one", {"text": "two"}]),
        ("a.csv", 'id,Text\n1,"a, b"\n2,"c\nd"\n3,\n', ["a, b", "c\nd"]),
        ("a.csv", "id;content\n1;x, y\n", ["x, y"]),
        ("a.tsv", "document\tyear\none\t1\n", ["one"]),
        ("a.csv", "just one column\nof lines\n", ["just one column", "of lines"]),
        ("a.csv", "name,shelf\nEmma,7\nMoby,\n", [{"name": "Emma", "shelf": "7"}, {"name": "Moby"}]),
    ],
)
def test_files_are_read_by_their_kind(name: str, content: str, documents: list[Document]) -> None:
    assert read_file(name, content) == documents


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdf", "%PDF", "Open one of .txt"),
        ("noend", "x", "Open one of .txt"),
        ("a.jsonl", '"fine"\n{broken\n', "Line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "Line 1 is neither"),
        ("a.csv", 'text\n"never closed\n', "not CSV"),
        ("a.txt", " \n", "no document"),
        ("a.csv", "", "no document"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_words(name: str, content: str, said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        read_file(name, content)


def test_an_object_is_shown_by_its_text_or_all_of_its_fields() -> None:
    assert text_of({"text": "one", "year": 1}) == "one"
    assert text_of({"title": "Emma", "shelf": 7}) == "title: Emma\nshelf: 7"
    assert json.loads(format_documents([{"title": "Emma"}])) == {"title": "Emma"}
