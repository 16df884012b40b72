"""Inputs of a batch: every row once, whatever the partitions; what is no row is reported and never fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists, sampled_from

from reranker import offline
from reranker.errors import InputFileError
from reranker.offline import Partition, Row
from reranker.offline.pairs import COLUMNS, Input, find_input, index_texts, open_reader, plan


def _found(path: Path, **options: Any) -> Input:
    arguments = {"columns": COLUMNS, "queries": None, "corpus": None, "split": "test"} | options
    return find_input(path, **arguments)


def _read(found: Input, rows: int, folder: Path) -> tuple[list[Partition], list[Row]]:
    """Everything, partition by partition; numbers are those of the plan."""
    partitions = plan(found, rows)
    if found.texts:
        index_texts(found.texts, folder / "texts.sqlite")
    read_rows = open_reader(found, folder / "texts.sqlite")
    read: list[Row] = []
    for partition in partitions:
        part = sorted(read_rows(partition), key=lambda row: row.number)
        assert [row.number for row in part] == list(range(partition.first_row, partition.first_row + partition.rows))
        assert 0 < len(part) <= rows
        read += part
    assert len(read) == sum(one.rows for one in partitions)
    return partitions, read


def _problems(rows: list[Row]) -> list[str | None]:
    return [row.error for row in rows]


@given(
    content=lists(
        sampled_from([b"{}", b"", b"  ", b"[", b"x" * 50, b'{"query":"q","document":"d"}', b"\xff"]), max_size=40
    ),
    end=sampled_from([b"", b"\n", b"\n\n"]),
    rows=integers(1, 7),
    limit=integers(8, 60),
)
def test_every_line_that_is_not_blank_is_a_row_of_one_partition(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], end: bytes, rows: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    path = folder / "pairs.jsonl"
    path.write_bytes(b"\n".join(content) + end)
    wanted = [number for number, line in enumerate(content, start=1) if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "MAX_LINE_BYTES", limit)
        if not wanted:
            with pytest.raises(InputFileError, match="holds no row"):
                _read(_found(path), rows, folder)
            return
        _, read = _read(_found(path), rows, folder)
    assert [row.line for row in read if row.error] == [
        number for number, row in zip(wanted, read, strict=True) if row.error
    ]


@given(binary(max_size=300), integers(1, 3))
def test_any_bytes_are_rows_or_problems(tmp_path_factory: pytest.TempPathFactory, content: bytes, rows: int) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "pairs.jsonl").write_bytes(content + b"\n{}")
    _read(_found(folder / "pairs.jsonl"), rows, folder)


def test_each_kind_of_bad_line_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    good = {"id": 7, "query": "q", "document": "北京"}
    bad: list[bytes] = [
        b'{"query": "q"}',
        b'{"document": "d"}',
        b'{"query": 1, "document": "d"}',
        b'{"query": "q", "document": ["d"]}',
        b'{"query": " ", "document": "d"}',
        b'{"query": "q", "document": ',
        b'"q"',
        b'{"query": "\xff", "document": "d"}',
        b'{"query": "\\ud800", "document": "d"}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good).encode() + b"\r\n" + b"\n".join(bad))
    _, read = _read(_found(path), 4, tmp_path)
    assert read[0] == Row(0, ("7",), "q", "北京")
    assert _problems(read[1:]) == [
        "missing_document",
        "missing_query",
        "wrong_type",
        "wrong_type",
        "empty_query",
        "invalid_json",
        "invalid_json",
        "invalid_utf8",
        "invalid_json",
    ]
    assert all("北京" not in row.message for row in read)


def test_files_of_a_folder_are_one_input_and_columns_can_be_named(tmp_path: Path) -> None:
    for name, texts in (("b", ["3"]), ("a", ["1", "2"])):
        rows = [json.dumps({"question": "q", "passage": text, "key": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    _, read = _read(
        _found(tmp_path, columns=dict(zip(COLUMNS, ["question", "passage", "key"], strict=True))), 2, tmp_path
    )
    assert [(row.number, row.keys, row.document) for row in read] == [
        (0, ("1",), "1"),
        (1, ("2",), "2"),
        (2, ("3",), "3"),
    ]


def _write_parquet(path: Path, rows: int, group: int) -> None:
    table = pa.table(
        {
            "id": pa.array(range(rows)),
            "other": pa.array([[i] for i in range(rows)]),
            "query": pa.array([None if i == 3 else f"q{i}" for i in range(rows)]).dictionary_encode(),
            "document": pa.array([f"d{i}" for i in range(rows)], pa.large_string()),
        }
    )
    pq.write_table(table, path, row_group_size=group)


def test_parquet_is_read_in_slices_of_its_row_groups(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "pairs.parquet", 2_000, 900)
    partitions, read = _read(_found(tmp_path), 400, tmp_path)
    assert [one.rows for one in partitions] == [400, 400, 100, 400, 400, 100, 200]
    assert [row.document for row in read if not row.error] == [f"d{i}" for i in range(2_000) if i != 3]
    assert [row.keys for row in read] == [(str(i),) for i in range(2_000)]
    assert [row.number for row in read if row.error] == [3]
    assert read[3].error == "missing_query"


def test_parquet_slices_can_be_read_in_any_order_and_side_by_side(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "pairs.parquet", 2_000, 900)
    found = _found(tmp_path)
    partitions = plan(found, 100)
    read_rows = open_reader(found, tmp_path / "none")
    for pair in zip(partitions[::-2], partitions[::3], strict=False):
        reads = [read_rows(one) for one in pair]
        interleaved = [next(rows) for _ in range(50) for rows in reads]
        rest = [row for rows in reads for row in rows]
        wanted = {one.first_row + i for one in pair for i in range(one.rows)}
        assert {row.number for row in interleaved + rest} == wanted
        assert all(row.document == f"d{row.number}" or row.number == 3 for row in interleaved + rest)


def test_parquet_texts_that_are_no_utf8_and_damaged_pages_are_problems(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"good"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"query": texts, "document": pa.array(["d"] * 3)}), path, compression="snappy")
    _, read = _read(_found(path), 9, tmp_path)
    assert _problems(read) == [None, "invalid_utf8", None]
    spoilt = bytearray(path.read_bytes())
    spoilt[4:30] = b"\xff" * 26
    path.write_bytes(spoilt)
    _, read = _read(_found(path), 2, tmp_path)
    assert _problems(read) == ["unreadable"] * 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"query": ["q"]}, "no column 'document'"), ({"query": ["q"], "document": [1]}, "holds int64, not text")],
)
def test_parquet_without_texts_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    with pytest.raises(InputFileError, match=message):
        plan(_found(tmp_path), 9)


def _write_texts(folder: Path) -> dict[str, Path]:
    (folder / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "first"}\n{"_id": 2, "text": "second"}\n{"_id": "q3", "text": " "}\n'
    )
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "one"}\n\nno json\n{"_id": "d2", "text": "zwei"}\n'
        '{"_id": "d2", "text": "again"}\n{"_id": "d3"}\n'
    )
    return {"queries": folder / "queries.jsonl", "corpus": folder / "corpus.jsonl"}


def test_run_is_joined_with_its_texts(tmp_path: Path) -> None:
    run = ["q1 Q0 d1 1 9.5 tag", "2 Q0 d2 1 9 tag", "q1 Q0 d2 2 8 tag", "q1 Q0 d9 3 7 tag", "q9 Q0 d1 1 1 tag"]
    run += ["q3 Q0 d1 1 1 t", "q1 Q0 d3 1 1 t", "too short"]
    (tmp_path / "a.trec").write_text("\n".join(run) + "\n")
    found = _found(tmp_path / "a.trec", **_write_texts(tmp_path))
    _, read = _read(found, 4, tmp_path)
    assert [(row.keys, row.query, row.document) for row in read[:3]] == [
        (("q1", "d1"), "first", "T one"),
        (("2", "d2"), "second", "zwei"),
        (("q1", "d2"), "first", "zwei"),
    ]
    assert _problems(read[3:]) == [
        "missing_document",
        "missing_query",
        "empty_query",
        "missing_document",
        "invalid_line",
    ]
    unreadable = index_texts(found.texts, tmp_path / "texts.sqlite")
    assert [(one["line"], one["message"].split(":")[0]) for one in unreadable] == [
        (3, "must be an object with `_id` and `text`, or id<TAB>text"),
        (5, "has an id that an earlier line has"),
        (6, "has no string `text`"),
    ]


def test_beir_folder_is_its_candidates_or_else_its_judged_pairs(tmp_path: Path) -> None:
    _write_texts(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n2\td1\t0\n")
    _, read = _read(_found(tmp_path), 1, tmp_path)
    assert [row.keys for row in read] == [("q1", "d2"), ("2", "d1")]
    (tmp_path / "candidates.trec").write_text("q1 Q0 d1 1 1 t\n")
    _, read = _read(_found(tmp_path), 1, tmp_path)
    assert [row.keys for row in read] == [("q1", "d1")]


def test_what_is_no_input_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    for path, options, message in [
        (tmp_path / "none.jsonl", {}, "no such file"),
        (tmp_path, {}, "holds neither"),
        (tmp_path / "x.txt", {}, "is not named"),
        (tmp_path / "x.txt", {"corpus": tmp_path / "x.txt"}, "--queries FILE and --corpus FILE"),
        (tmp_path / "x.txt", {"corpus": tmp_path / "x.txt", "queries": tmp_path / "q"}, "no such file"),
    ]:
        with pytest.raises(InputFileError, match=message):
            _found(path, **options)
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(InputFileError, match="both"):
        _found(tmp_path)
    with pytest.raises(InputFileError, match="cannot be read as Parquet"):
        plan(_found(tmp_path / "a.parquet"), 9)
