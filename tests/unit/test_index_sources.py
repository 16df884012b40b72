"""Documents are read from every kind of file, and what cannot be read is said and stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranker.errors import ConfigurationError
from reranker.search.documents import Document, Reject, TextFields, find_sources, read_documents


def _read(path: Path, fields: TextFields | None = None) -> tuple[list[Document], list[str]]:
    [source] = find_sources([path])
    records = list(read_documents(source, fields or TextFields()))
    problems = [str(one).removeprefix(f"{path}:") for one in records if isinstance(one, Reject)]
    return [one for one in records if isinstance(one, Document)], problems


def test_folder_is_read_in_order_without_hidden_and_unknown_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", ".git/x.txt", "image.png", "UPPER.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [one.name for one in find_sources([tmp_path])] == ["UPPER.TXT", "a/c.md", "b.txt"]
    assert len(find_sources([tmp_path, tmp_path / "b.txt"])) == 3  # not twice


def test_an_index_among_its_documents_is_not_one_of_them(tmp_path: Path) -> None:
    for name in ("a.txt", "index/versions/000001/chunks.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [one.name for one in find_sources([tmp_path], without=tmp_path / "index")] == ["a.txt"]


def test_markdown_is_titled_by_its_first_heading(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("intro\n\n## The heading ##\n\nbody")
    [document], _ = _read(tmp_path / "a.md")
    assert (document.id, document.title, document.metadata) == ("a.md", "The heading", {"path": "a.md"})


def test_json_lines_become_documents_and_what_is_wrong_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"_id": 7, "title": "T", "text": "one", "year": 2020, "metadata": {"tag": "x"}}\n'
        b"not json\n"
        b"\n"
        b'{"text": 5}\n'
        b"\xff\n"
        b'"only a string"\n'
        b'{"id": "s", "text": "half \\ud800"}\n'
        b"[1]\n"
        b'{"id": "n", "text": "t", "n": 123456789012345678901234567890}\n'
        b'{"id": true, "text": "t"}\n'
        b'{"id": "e", "text": "  "}\n'
        b'{"id": "t", "text": "t", "title": 5}\n'
    )
    documents, problems = _read(file)
    assert [(one.id, one.title, one.text, one.metadata) for one in documents] == [
        ("7", "T", "one", {"year": 2020, "tag": "x"}),
        (documents[1].id, "", "only a string", {}),
    ]
    assert documents[1].id == Document(documents[1].id, "only a string").id
    assert [problem.split(":")[0] for problem in problems] == ["2", "4", "5", "7", "8", "9", "10", "11", "12"]
    assert problems[1] == "4: has no string `text`"


def test_a_line_without_an_id_has_the_same_one_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n')
    (_, two), _ = _read(tmp_path / "a.jsonl")
    [same], _ = _read(tmp_path / "b.jsonl")
    assert two.id == same.id


def test_csv_has_columns_and_cells_over_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'id,text,lang\n1,"two\nlines",de\n2,short\n3,fine,\n4,\xff,de\n')
    documents, problems = _read(file)
    assert [(one.id, one.text, one.metadata) for one in documents] == [
        ("1", "two\nlines", {"lang": "de"}),
        ("3", "fine", {}),
    ]
    assert [problem.split(":")[0] for problem in problems] == ["4", "6"]


def test_csv_without_a_text_column_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert _read(tmp_path / "a.csv") == ([], ["1: its first row must name the columns, one of them text"])


def test_text_is_of_the_fields_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "abstract": "A", "claims": "C", "name": "N", "text": "other"}\n')
    [document], _ = _read(tmp_path / "a.jsonl", TextFields(("abstract", "claims"), "name"))
    assert (document.text, document.title, document.metadata) == ("A\n\nC", "N", {"text": "other"})


def test_empty_and_broken_text_files_are_problems(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    assert _read(tmp_path / "a.txt") == ([], [" is empty"])
    assert _read(tmp_path / "b.txt") == ([], [" is not UTF-8"])


@pytest.mark.parametrize("name", ["nowhere", "empty", "a.pdf"])
def test_nothing_to_read_is_an_error_that_names_the_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ConfigurationError, match=name):
        find_sources([tmp_path / name])
