"""The folder of a batch: it goes on with what is its own, and refuses what is not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reranker.errors import BatchError
from reranker.offline import Partition, Row, pairs
from reranker.offline.folder import BatchFolder
from reranker.offline.pairs import COLUMNS, Input, find_input

SETTINGS = {
    "model": "model",
    "prompts": "prompts",
    "adapter": "",
    "instruction": "instruction",
    "long_documents": {"mode": "truncate"},
    "columns": {"query": "query"},
    "output": "parquet",
    "partition_rows": 2,
}


@pytest.fixture
def found(tmp_path: Path) -> Input:
    path = tmp_path / "in" / "pairs.jsonl"
    path.parent.mkdir()
    path.write_text('{"query": "q", "document": "d"}\n' * 5)
    return find_input(path, COLUMNS, None, None, "test")


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    return BatchFolder(tmp_path / "out", "parquet")


def _score(number: int, keys: tuple[str, ...] = ("x",), score: float | None = 0.5) -> Row:
    if score is None:
        return Row(number, keys, error="missing_query", message="there is no `query`", line=7)
    return Row(number, keys, score=score, log_odds=0.0)


def test_a_batch_goes_on_where_it_was(found: Input, folder: BatchFolder) -> None:
    with folder.locked():
        manifest = folder.open(found, SETTINGS)
        assert [one.rows for one in manifest.partitions] == [2, 2, 1]
        folder.scores(1).write_bytes(b"scores")
        assert folder.record(1) is None  # scores alone may be those of an engine that died before it said so
        folder.finish(1, [_score(2), _score(3)], ["id"], {})
    again = BatchFolder(folder.path, "parquet")
    with again.locked():
        assert again.open(found, SETTINGS) == manifest
        assert [again.record(i) is not None for i in range(3)] == [False, True, False]
        again.scores(1).write_bytes(b"cut off")
        assert again.record(1) is None
        again.scores(1).unlink()
        assert again.record(1) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": "another"}, "model"),
        ({"instruction": "another"}, "instruction"),
        ({"adapter": "medical"}, "adapter"),
        ({"long_documents": {"mode": "windows"}}, "long documents"),
        ({"columns": {"query": "question"}}, "columns"),
        ({"output": "jsonl", "partition_rows": 3}, "output, partition rows"),
    ],
)
def test_another_model_or_setting_is_refused(
    found: Input, folder: BatchFolder, changed: dict[str, object], named: str
) -> None:
    folder.open(found, SETTINGS)
    with pytest.raises(BatchError, match=f"another {named}. .*--restart"):
        folder.open(found, SETTINGS | changed)
    folder.clear()
    folder.open(found, SETTINGS | changed)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{}\n")


def _change_in_place(path: Path) -> None:
    content = path.read_text().replace("d", "e", 1)
    path.write_text(content)
    os.utime(path, ns=(0, 1))


@pytest.mark.parametrize("change", [_append, _change_in_place])
def test_another_content_of_the_input_is_refused(
    found: Input, folder: BatchFolder, change: Callable[[Path], None]
) -> None:
    folder.open(found, SETTINGS)
    change(found.files[0])
    with pytest.raises(BatchError, match="another input"):
        folder.open(found, SETTINGS)


def _written(folder: Path, form: str) -> Input:
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Path] = {}
    path = folder / f"pairs.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"query": ["q"] * 5, "document": ["d"] * 5}), path)
    elif form == "jsonl":
        path.write_bytes(b"\xef\xbb\xbf" + b'{"query": "q", "document": "d"}\n\n' * 5 + b'{"query": "cut off')
    else:
        path.write_text("q Q0 d 1 1 t\n" * 5)
        texts = {"query": folder / "queries.jsonl", "document": folder / "corpus.jsonl"}
        for kind, text in texts.items():
            text.write_text(f'{{"_id": "{kind[0]}", "text": "text"}}\nbroken')
    return find_input(path, COLUMNS, texts.get("query"), texts.get("document"), "test")


@pytest.mark.parametrize("form", ["jsonl", "parquet", "trec"])
def test_the_same_content_under_another_name_and_time_is_the_same_input(
    tmp_path: Path, folder: BatchFolder, form: str
) -> None:
    first, again = (_written(tmp_path / name, form) for name in ("first", "again"))
    manifest = folder.open(first, SETTINGS)
    for path in again.all_files:
        os.utime(path, (1, 1))
    assert manifest.stats != again.stats()
    reopened = folder.open(again, SETTINGS)
    assert reopened.partitions == manifest.partitions
    assert reopened.stats == again.stats()
    for path in again.all_files:
        _append(path)
        with pytest.raises(BatchError, match="another input"):
            folder.open(again, SETTINGS)
        path.write_bytes(path.read_bytes()[:-3])
    folder.open(again, SETTINGS)


def test_an_input_that_changes_while_it_is_cut_is_refused(
    found: Input, folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest could be that of the new content, and its partitions those of the old."""
    cut = pairs.plan

    def cut_and_change(source: Input, rows: int) -> list[Partition]:
        partitions = cut(source, rows)
        _append(source.files[0])
        return partitions

    monkeypatch.setattr(pairs, "plan", cut_and_change)
    with pytest.raises(BatchError, match="changed while it was read"):
        folder.open(found, SETTINGS)
    monkeypatch.undo()
    assert folder.open(found, SETTINGS).rows == 6


def test_a_folder_with_other_files_or_in_use_is_refused(folder: BatchFolder, tmp_path: Path) -> None:
    with folder.locked(), pytest.raises(BatchError, match="another `reranker batch`"), folder.locked():
        pass
    (folder.path / "thesis.tex").write_text("mine")
    with pytest.raises(BatchError, match=r"other files \(thesis.tex\)"), folder.locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(BatchError, match="File exists"), BatchFolder(tmp_path / "file", "parquet").locked():
        pass


def test_a_start_that_was_cut_off_counts_for_nothing(found: Input, folder: BatchFolder) -> None:
    (folder.path / "state" / "done").mkdir(parents=True)
    (folder.path / "state" / "done" / "00000.json").write_text('{"bytes": 0}')
    with folder.locked():
        folder.open(found, SETTINGS)
    assert folder.record(0) is None


def test_a_folder_of_another_version_is_refused(found: Input, folder: BatchFolder) -> None:
    folder.open(found, SETTINGS)
    manifest = folder.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 4', '"version": 1'))
    with pytest.raises(BatchError, match="another version"):
        folder.open(found, SETTINGS)
    assert str(pickle.loads(pickle.dumps(BatchError("x")))) == "x"  # noqa: S301 - crosses processes


@pytest.mark.parametrize("output", ["parquet", "jsonl"])
def test_the_run_has_every_scored_pair_once_best_first(tmp_path: Path, output: str) -> None:
    for name, text in (
        ("queries.jsonl", '{"_id": "q", "text": "q"}\n{"_id": "p", "text": "p"}\n'),
        ("corpus.jsonl", '{"_id": "d", "text": "d"}\nbroken\n'),
        ("run.trec", "q Q0 d 1 1 t\n" * 6),
    ):
        (tmp_path / name).write_text(text)
    found = find_input(tmp_path / "run.trec", COLUMNS, tmp_path / "queries.jsonl", tmp_path / "corpus.jsonl", "test")
    folder = BatchFolder(tmp_path / "out", output)
    manifest = folder.open(found, SETTINGS | {"partition_rows": 3})
    keys = ["query_id", "document_id"]
    parts = [
        [_score(0, ("q", "a"), 0.25), _score(1, ("p", "a"), 0.5), _score(2, ("q", "b"), 0.75)],
        [_score(3, ("q", "a"), 0.25), _score(4, ("q", "c"), 0.25), _score(5, ("p", "b"), None)],
    ]
    for number, rows in enumerate(parts):
        folder.finish(number, rows, keys, {})
    folder.write_run(manifest)
    assert folder.run.read_text().splitlines() == [
        "q Q0 b 1 0.75 reranker",
        "q Q0 a 2 0.25 reranker",
        "q Q0 c 3 0.25 reranker",
        "p Q0 a 1 0.5 reranker",
    ]
    assert folder.write_errors(manifest) == 1
    unreadable, failed = folder.errors.read_text().splitlines()
    assert '"line":2,"error":"unreadable_line"' in unreadable
    assert failed == (
        '{"row":5,"query_id":"p","document_id":"b","line":7,"error":"missing_query","message":"there is no `query`"}'
    )
