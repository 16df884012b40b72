"""The pairs of a batch: which files hold them, how these are cut into partitions, and how a partition is read again.

Files are read once to cut them (`plan`), and partition by partition to score them; no file is held in memory. What
cannot be read as a pair is a row with a problem, and never stops the reading.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reranker.errors import InputFileError
from reranker.offline import Partition, Row, RowError, lines_of, parse_json, string, text_of
from reranker.offline.evaluation import parse_text_line

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COLUMNS = {"query": "query", "document": "document", "id": "id"}
_MAX_PARTITION_BYTES = 64 * 2**20
_BATCH_ROWS = 256
_REPORTED = 1_000
"""Unreadable lines of a file of texts that are reported."""


@dataclass(frozen=True, slots=True)
class Input:
    """The files of a batch."""

    format: str
    """Of the pairs: "jsonl", "parquet" or "ids"."""
    files: tuple[Path, ...]
    """Of ids there is one."""
    columns: dict[str, str]
    """Names of the fields of JSONL, and of the columns of Parquet: those of `COLUMNS` or others."""
    texts: dict[str, Path] = field(default_factory=dict)
    """Of ids: the files of the texts, of "query" and "document"."""

    @property
    def all_files(self) -> tuple[Path, ...]:
        return (*self.files, *self.texts.values())

    def stats(self) -> list[list[Any]]:
        """Path, size and time of change of each file."""
        return [[str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns] for one in self.all_files]

    def digests(self) -> list[str]:
        """Of the files' content."""
        digests = []
        for path in self.all_files:
            with path.open("rb") as file:
                digests.append(file_digest(file, "blake2b").hexdigest())
        return digests

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Names of `Row.keys`."""
        return ("query_id", "document_id") if self.texts else ("id",)


def find_input(path: Path, columns: dict[str, str], queries: Path | None, corpus: Path | None, split: str) -> Input:
    """Tell what a path holds: JSONL or Parquet, a folder of such files, a BEIR folder, or a file of ids.

    `queries` and `corpus` hold the texts of a file of ids. `split` names the judged pairs of a BEIR folder without
    candidates. Raises InputFileError if the path holds nothing that is known.
    """
    files = [path]
    if bool(queries) != bool(corpus):
        raise InputFileError(str(path), None, "needs the texts of both: --queries FILE and --corpus FILE")
    if path.is_dir() and not queries:
        queries, corpus = path / "queries.jsonl", path / "corpus.jsonl"
        if queries.is_file() and corpus.is_file():
            candidates = path / "candidates.trec"
            files = [candidates if candidates.is_file() else path / "qrels" / f"{split}.tsv"]
        else:
            queries = corpus = None
            files = sorted(file for file in path.iterdir() if file.suffix in _FORMATS and file.is_file())
    texts = {"query": queries, "document": corpus} if queries and corpus else {}
    if lacking := next((file for file in (*files, *texts.values()) if not file.is_file()), None):
        raise InputFileError(str(lacking), None, "no such file")
    formats: set[str | None] = {"ids"} if texts else {_FORMATS.get(file.suffix) for file in files}
    if len(formats) != 1:
        neither = "neither queries.jsonl and corpus.jsonl, nor JSONL, nor Parquet"
        raise InputFileError(str(path), None, f"holds {'both JSONL and Parquet files' if formats else neither}")
    form = formats.pop()
    if form is None:
        known = ", ".join(_FORMATS)
        raise InputFileError(str(path), None, f"is not named {known}; a run of ids needs --queries and --corpus")
    return Input(form, tuple(files), columns, texts)


def plan(source: Input, partition_rows: int) -> list[Partition]:
    """Read all pairs, and cut them into partitions of at most so many rows.

    Raises InputFileError if a file cannot be read or lacks a column, or if there is no row at all.
    """
    partitions: list[Partition] = []
    total = 0
    cut = _cut_parquet if source.format == "parquet" else _cut_lines
    for number, path in enumerate(source.files):
        try:
            for rows, start, first in cut(path, partition_rows, source):
                partitions.append(Partition(len(partitions), total, rows, number, start, first))
                total += rows
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or f"cannot be read as Parquet ({type(error).__name__})"
            raise InputFileError(str(path), None, reason) from None
    if not partitions:
        raise InputFileError(str(source.files[0]), None, "holds no row")
    return partitions


def _cut_lines(path: Path, partition_rows: int, source: Input) -> Iterator[tuple[int, int, int]]:
    rows = start = 0
    first_line = 1
    with path.open("rb", buffering=2**20) as file:
        for number, _ in lines_of(file, headed=source.format == "ids"):
            rows += 1
            if rows >= partition_rows or file.tell() - start >= _MAX_PARTITION_BYTES:
                yield rows, start, first_line
                rows, start, first_line = 0, file.tell(), number + 1
    if rows:
        yield rows, start, first_line


def _cut_parquet(path: Path, partition_rows: int, source: Input) -> Iterator[tuple[int, int, int]]:
    with _open_parquet(path) as parquet:
        schema = parquet.schema_arrow
        for name in (source.columns["query"], source.columns["document"]):
            if name not in schema.names:
                known = ", ".join(schema.names)
                raise InputFileError(str(path), None, f"has no column {name!r}, only {known}; name it with an option")
            of = schema.field(name).type
            if not _is_text(of):
                raise InputFileError(str(path), None, f"column {name!r} holds {of}, not text")
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            for first in range(0, rows, partition_rows):
                yield min(partition_rows, rows - first), group, first


def _open_parquet(path: Path) -> pq.ParquetFile:
    # Not pre-buffered: that would hold all of a row group's compressed bytes.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)


def _is_text(of: pa.DataType) -> bool:
    return (of.value_type if pa.types.is_dictionary(of) else of) in (pa.string(), pa.large_string(), pa.string_view())


def index_texts(files: dict[str, Path], index: Path) -> list[dict[str, Any]]:  # Any: JSON
    """Copy the texts of `Input.texts` into a database, by id: a corpus may be larger than memory.

    Returns the first of the lines without an id or a text, or with the id of an earlier line, as errors.jsonl has them.
    Raises InputFileError if a file cannot be read.
    """
    index.unlink(missing_ok=True)
    unreadable: list[dict[str, Any]] = []
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("PRAGMA journal_mode = OFF")  # a crash leaves a file that no manifest names
        for table, path in files.items():
            database.execute(f"CREATE TABLE {table} (id TEXT PRIMARY KEY, text TEXT)")
            insert = f"INSERT OR IGNORE INTO {table} VALUES (?, ?)"  # noqa: S608 - one of two tables
            most = len(unreadable) + _REPORTED
            try:
                with path.open("rb", buffering=2**20) as file:
                    for number, line in lines_of(file, headed=True):
                        try:
                            if not database.execute(insert, parse_text_line(text_of(line))).rowcount:
                                raise RowError("has an id that an earlier line has")  # noqa: TRY301
                        except RowError as error:
                            where = {"file": str(path), "line": number, "error": "unreadable_line"}
                            if len(unreadable) < most:
                                unreadable.append(where | {"message": error.problem})
            except OSError as error:
                raise InputFileError(str(path), None, error.strerror or str(error)) from None
        database.commit()
    return unreadable


def open_reader(source: Input, index: Path) -> Callable[[Partition], Iterator[Row]]:
    """Give what reads a partition's rows in their order, also in several threads at a time; opens nothing yet.

    `index` is that of `index_texts`.
    """
    contents = _values if source.format == "parquet" else _lines
    # immutable: no locks, which a shared file system may not have
    uri = f"{index.as_uri()}?mode=ro&immutable=1" if source.texts else "file::memory:"

    def read(partition: Partition) -> Iterator[Row]:
        # One thread at a time has the connection.
        with contextlib.closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as texts:
            for number, (line, content) in enumerate(contents(source, partition), partition.first_row):
                row = Row(number, (None,) * len(source.key_columns))
                try:
                    _fill(row, content, source, texts)
                except RowError as error:
                    row.error, row.message, row.line = error.code, error.problem, line
                yield row

    return read


def _lines(source: Input, partition: Partition) -> Iterator[tuple[int, bytes | None]]:
    with source.files[partition.file].open("rb", buffering=2**20) as file:
        file.seek(partition.start)
        yield from islice(lines_of(file, partition.first, headed=source.format == "ids"), partition.rows)


def _values(source: Input, partition: Partition) -> Iterator[tuple[None, dict[str, Any] | RowError]]:
    """Give the values of rows of Parquet, by column; of rows that cannot be read, the reason.

    A row group can only be read from its beginning: 200,000 rows of 430 characters are passed over in 0.15 s.
    """
    skipped, left = partition.first, partition.rows
    try:
        with _open_parquet(source.files[partition.file]) as parquet:
            names = [name for name in parquet.schema_arrow.names if name in source.columns.values()]
            batches = parquet.iter_batches(_BATCH_ROWS, row_groups=[partition.start], columns=names, use_threads=False)
            for batch in batches:
                rows = batch.slice(min(skipped, len(batch)), left)
                skipped = max(0, skipped - len(batch))
                # Texts as bytes: Parquet does not check that they are UTF-8.
                columns = (one.cast(pa.large_binary()) if _is_text(one.type) else one for one in rows.columns)
                for row in zip(*(one.to_pylist() for one in columns), strict=True):
                    yield None, dict(zip(names, row, strict=True))
                    left -= 1
                if not left:
                    return
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        for _ in range(left):
            yield None, RowError("the file is damaged here", "unreadable")


def _fill(row: Row, content: Any, source: Input, texts: sqlite3.Connection) -> None:
    """Fill a row from a line of ids or JSON, or from a Parquet file's values; a RowError stands for what is damaged."""
    if isinstance(content, RowError):
        raise content
    if source.texts:
        ids = text_of(content).split()
        if len(ids) not in (3, 4, 6):
            raise RowError("must be `query Q0 document rank score tag`, or of TREC's or BEIR's judgments")
        row.keys = ids[0], ids[1 if len(ids) == 3 else 2]
        select = "SELECT (SELECT text FROM query WHERE id = ?), (SELECT text FROM document WHERE id = ?)"
        pair = texts.execute(select, row.keys).fetchone()
    else:
        values = content if isinstance(content, dict) else parse_json(text_of(content))
        if not isinstance(values, dict):
            raise RowError("is no JSON object", "invalid_json")
        name, *pair = (values.get(source.columns[what]) for what in ("id", "query", "document"))
        if isinstance(name, bytes):
            name = name.decode(errors="replace")
        elif name is not None and not isinstance(name, str):
            name = str(name) if type(name) is int else json.dumps(name, default=str).strip('"')
        row.keys = (name,)
    found = []
    for what, value in zip(("query", "document"), pair, strict=True):
        if value is None:
            lacking = f"no line of {source.texts[what].name} has this {what} id" if source.texts else ""
            raise RowError(lacking or f"there is no `{source.columns[what]}`", f"missing_{what}")
        text = text_of(value) if isinstance(value, bytes) else value
        found.append(string(text, f"`{source.columns[what]}` is no text", "wrong_type"))
    row.query, row.document = found
    if not row.query.strip():
        raise RowError("the query is empty", "empty_query")
