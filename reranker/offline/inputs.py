"""What is to be scored: which files, in which form; cut into partitions, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Literal, TypeAlias

from reranker.offline.columns import Columns
from reranker.offline.evaluation.formats import InputFileError
from reranker.offline.jsonl import JsonLines
from reranker.offline.lines import PartitionCutter, cut_lines
from reranker.offline.parquet import ParquetPairs, cut_parquet
from reranker.offline.rows import Partition, Source
from reranker.offline.texts import Unreadable, build_index
from reranker.offline.trec import IdPairs, is_heading

Form: TypeAlias = Literal["jsonl", "parquet", "ids"]
_FORMS: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Input:
    """The files of a batch."""

    form: Form
    files: tuple[Path, ...]
    """Of the pairs; of ids there is one."""
    columns: Columns
    queries: Path | None = None
    """Texts of the queries; for ids only."""
    corpus: Path | None = None

    @property
    def texts(self) -> dict[str, Path]:
        """The files of texts, by kind."""
        named = {"query": self.queries, "document": self.corpus}
        return {kind: path for kind, path in named.items() if path is not None}

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.files, *self.texts.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """How an input is cut, and what it was then."""

    partitions: tuple[Partition, ...]
    digests: tuple[str, ...]
    """Of the content of `Input.all_files`."""
    unreadable: tuple[Unreadable, ...]
    """Lines of queries and corpus that no row can name."""

    @property
    def rows(self) -> int:
        """Of all partitions."""
        return sum(one.rows for one in self.partitions)


def find_input(path: Path, columns: Columns, queries: Path | None, corpus: Path | None, split: str) -> Input:
    """Tell what a path holds.

    Args:
        path: A JSONL or Parquet file, a folder of such, a BEIR folder, or a file of ids.
        columns: Of JSONL and Parquet.
        queries: Texts of a file of ids.
        corpus: The same.
        split: Of a BEIR folder without candidates: whose judged pairs.

    Raises:
        InputFileError: Nothing there, or nothing that we know.
    """
    if queries or corpus:
        if not (queries and corpus):
            raise InputFileError(str(path), None, "needs the texts of both: --queries FILE and --corpus FILE")
        return _require_files(Input("ids", (path,), columns, queries, corpus))
    if path.is_dir():
        return _folder(path, columns, split)
    form = _FORMS.get(path.suffix)
    if path.is_file() and form is None:
        known = ", ".join(_FORMS)
        raise InputFileError(str(path), None, f"is not named {known}; a run of ids needs --queries and --corpus")
    return _require_files(Input(form or "jsonl", (path,), columns))


def _folder(path: Path, columns: Columns, split: str) -> Input:
    queries, corpus = path / "queries.jsonl", path / "corpus.jsonl"
    if queries.is_file() and corpus.is_file():
        candidates, judged = path / "candidates.trec", path / "qrels" / f"{split}.tsv"
        pairs = candidates if candidates.is_file() else judged
        return _require_files(Input("ids", (pairs,), columns, queries, corpus))
    files = sorted(file for file in path.iterdir() if file.suffix in _FORMS and file.is_file())
    forms = {_FORMS[file.suffix] for file in files}
    if len(forms) != 1:
        said = (
            "both JSONL and Parquet files"
            if forms
            else "neither queries.jsonl and corpus.jsonl, nor JSONL, nor Parquet"
        )
        raise InputFileError(str(path), None, f"holds {said}")
    return Input(forms.pop(), tuple(files), columns)


def _require_files(found: Input) -> Input:
    for file in found.all_files:
        if not file.is_file():
            raise InputFileError(str(file), None, "no such file")
    return found


def plan(found: Input, partition_rows: int, index: Path) -> Plan:
    """Read everything once: cut it, digest it, and index the texts of ids.

    Args:
        found: The input.
        partition_rows: Rows of a partition, at most.
        index: Where the index goes.

    Raises:
        InputFileError: A file cannot be read, has none of the columns, or there is no row at all.
    """
    cutter = PartitionCutter(partition_rows)
    digests: list[str] = []
    for number, path in enumerate(found.files):
        if found.form == "parquet":
            cut_parquet(cutter, path, number, found.columns)
            with path.open("rb") as stream:
                digests.append(file_digest(stream, "blake2b").hexdigest()[:32])
        else:
            heading = is_heading if found.form == "ids" else _no_heading
            digests.append(cut_lines(cutter, path, number, is_heading=heading))
    if not cutter.rows:
        raise InputFileError(str(found.files[0]), None, "holds no row")
    indexed = build_index(index, found.texts) if found.texts else {}
    unreadable = [line for one in indexed.values() for line in one.unreadable]
    digests += [one.digest for one in indexed.values()]
    return Plan(tuple(cutter.partitions), tuple(digests), tuple(unreadable))


def open_source(found: Input, index: Path) -> Source:
    """Give what reads the input's rows; opens nothing yet."""
    if found.form == "ids":
        return IdPairs(found.files[0], index, found.texts)
    if found.form == "parquet":
        return ParquetPairs(found.files, found.columns)
    return JsonLines(found.files, found.columns)


def _no_heading(line: bytes) -> bool:
    return False
