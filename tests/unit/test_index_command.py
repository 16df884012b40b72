"""`reranker index …` as a user runs it: what it says, and what is there afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from reranker.search.index import IndexFolder, IndexReader


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("The capital of China is Beijing.")
    (folder / "b.jsonl").write_text('{"id": "b", "text": "Gravity attracts."}\nno json\n')
    return folder


def _info(index: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["index", "info", str(index), "--json", "--verify"]) == 0
    info: dict[str, Any] = json.loads(capsys.readouterr().out)
    return info


def test_files_are_indexed_and_what_is_left_out_is_said(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "idx"
    assert main(["index", "build", str(files), "--out", str(index), "--embedding", "simulated"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{index}: 2 documents in 2 chunks; 1 left out\n"
    assert f"left out: {files / 'b.jsonl'}:2: is not JSON" in said.err
    info = _info(index, capsys)
    assert (info["documents"], info["left_out"], info["embedding"]["dimensions"]) == (2, 1, 256)
    assert main(["index", "info", str(index)]) == 0
    shown = capsys.readouterr().out
    assert "documents  2 in 2 chunks of at most 512 tokens" in shown
    assert "256 dimensions, simulated" in shown


def test_settings_are_kept_for_what_is_added(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, more = tmp_path / "idx", tmp_path / "more.jsonl"
    options = ["--chunk-tokens", "8", "--overlap-tokens", "2", "--stemmer", "none", "--chinese", "pairs"]
    assert main(["index", "build", str(files / "a.txt"), "--out", str(index), *options]) == 0
    more.write_text(json.dumps({"id": "c", "text": "one two three four five six seven eight nine ten eleven"}))
    assert main(["index", "add", str(index), str(more)]) == 0
    info = _info(index, capsys)
    assert (info["documents"], info["words"]) == (2, {"stemmer": "none", "ideographs": "pairs"})
    assert info["chunks"] > 2
    assert {chunk.id for chunk in IndexReader(IndexFolder(index).current()).chunks} == {"a.txt", "c"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "nowhere", "--out", "idx"], "nowhere: no such file or folder"),
        (["build", "files", "--out", "idx", "--stemmer", "klingon"], "no stemmer 'klingon'"),
        (["build", "files", "--out", "idx", "--overlap-tokens", "400"], "at most half"),
        (["build", "files", "--out", "files/a.txt"], "cannot be written to"),
        (["build", "files", "--out", "idx", "--embedding", "simulated", "--faiss", "Nonsense"], "FAISS cannot make"),
        (["add", "idx", "files"], "no index there"),
        (["info", "idx"], "no index there"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(files.parent)
    assert main(["index", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_long_lists_of_problems_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + "no json\n" * 30)
    assert main(["index", "build", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "idx")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"left out: 10 more, all in {tmp_path / 'idx' / 'versions' / '000001' / 'left_out.jsonl'}"
