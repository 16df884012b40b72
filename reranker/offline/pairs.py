"""The pairs of a batch: which files hold them, how these are cut into partitions, and how a partition is read again.

Files are read once to cut them (`plan`), and partition by partition to score them; no file is held in memory. What
cannot be read as a pair is a row with a problem, and never stops the reading.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.errors import InputFileError
from reranker.offline import MAX_LINE_BYTES, Partition, Problem, Row, numbered_lines
from reranker.offline.evaluation import decode_line, is_heading, parse_text_line

Format: TypeAlias = Literal["jsonl", "parquet", "ids"]
_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_MAX_PARTITION_BYTES = 64 * 2**20
_BATCH_ROWS = 256
_ROW_GROUPS = 2
"""Open row groups that are kept: as many as partitions are read at a time."""
_REPORTED = 1_000
"""Unreadable lines of a file of texts that are reported."""


class RowError(Exception):
    """A row cannot be scored: a code and a message, as in `Problem`. Stays within this module."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields of JSONL, and of the columns of Parquet."""

    query: str = "query"
    document: str = "document"
    id: str = "id"

    def texts(self, row: dict[str, Any]) -> tuple[str, str]:  # Any: JSON, or a column of any type
        """Give a row's query and document; raises RowError if it does not have both."""
        texts: list[str] = []
        for name, what in ((self.query, "query"), (self.document, "document")):
            value = row.get(name)
            if value is None:
                raise RowError(f"missing_{what}", f"there is no `{name}`")
            try:
                text = value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                raise RowError("invalid_utf8", "a text is not UTF-8") from None
            if not isinstance(text, str):
                raise RowError("wrong_type", f"`{name}` is no text")
            texts.append(text)
        if not texts[0].strip():
            raise RowError("empty_query", f"`{self.query}` is empty")
        return texts[0], texts[1]


@dataclass(frozen=True, slots=True)
class Input:
    """The files of a batch."""

    format: Format
    files: tuple[Path, ...]
    """Of the pairs; of ids there is one."""
    columns: Columns
    texts: dict[str, Path] = field(default_factory=dict)
    """Of ids: the files of the texts, of "query" and "document"."""

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Those of the texts, too."""
        return (*self.files, *self.texts.values())

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Names of `Row.keys`."""
        return ("query_id", "document_id") if self.format == "ids" else ("id",)


def find_input(path: Path, columns: Columns, queries: Path | None, corpus: Path | None, split: str) -> Input:
    """Tell what a path holds: JSONL or Parquet, a folder of such files, a BEIR folder, or a file of ids.

    `queries` and `corpus` hold the texts of a file of ids. `split` names the judged pairs of a BEIR folder without
    candidates. Raises InputFileError if the path holds nothing that is known.
    """
    if queries and corpus:
        source = Input("ids", (path,), columns, {"query": queries, "document": corpus})
    elif queries or corpus:
        raise InputFileError(str(path), None, "needs the texts of both: --queries FILE and --corpus FILE")
    elif path.is_dir():
        source = _find_in_folder(path, columns, split)
    elif path.is_file() and path.suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise InputFileError(str(path), None, f"is not named {known}; a run of ids needs --queries and --corpus")
    else:
        source = Input(_FORMATS.get(path.suffix, "jsonl"), (path,), columns)
    for file in source.all_files:
        if not file.is_file():
            raise InputFileError(str(file), None, "no such file")
    return source


def _find_in_folder(path: Path, columns: Columns, split: str) -> Input:
    queries, corpus = path / "queries.jsonl", path / "corpus.jsonl"
    if queries.is_file() and corpus.is_file():
        candidates, judged = path / "candidates.trec", path / "qrels" / f"{split}.tsv"
        texts = {"query": queries, "document": corpus}
        return Input("ids", (candidates if candidates.is_file() else judged,), columns, texts)
    files = sorted(file for file in path.iterdir() if file.suffix in _FORMATS and file.is_file())
    formats = {_FORMATS[file.suffix] for file in files}
    if len(formats) == 1:
        return Input(formats.pop(), tuple(files), columns)
    neither = "neither queries.jsonl and corpus.jsonl, nor JSONL, nor Parquet"
    raise InputFileError(str(path), None, f"holds {'both JSONL and Parquet files' if formats else neither}")


def plan(source: Input, partition_rows: int) -> tuple[Partition, ...]:
    """Read all pairs, and cut them into partitions of at most so many rows.

    Raises InputFileError if a file cannot be read or lacks a column, or if there is no row at all.
    """
    partitions: list[Partition] = []
    total = 0
    for number, path in enumerate(source.files):
        cut = _cut_parquet if source.format == "parquet" else _cut_lines
        try:
            for rows, start, first in cut(path, partition_rows, source):
                partitions.append(Partition(len(partitions), total, rows, number, start, first))
                total += rows
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or f"cannot be read as Parquet ({type(error).__name__})"
            raise InputFileError(str(path), None, reason) from None
    if not partitions:
        raise InputFileError(str(source.files[0]), None, "holds no row")
    return tuple(partitions)


def content_digest(path: Path) -> str:
    """Digest a whole file."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _cut_lines(path: Path, partition_rows: int, source: Input) -> Iterator[tuple[int, int, int]]:
    rows = start = 0
    first_line = 1
    with path.open("rb", buffering=2**20) as file:
        for number, line in numbered_lines(file, longest=MAX_LINE_BYTES):
            if number == 1 and source.format == "ids" and is_heading((line or b"").decode("utf-8", "replace")):
                start, first_line = file.tell(), 2
                continue
            rows += 1
            if rows >= partition_rows or file.tell() - start >= _MAX_PARTITION_BYTES:
                yield rows, start, first_line
                rows, start, first_line = 0, file.tell(), number + 1
    if rows:
        yield rows, start, first_line


def _partition_lines(source: Input, partition: Partition) -> Iterator[tuple[int, int, bytes | None]]:
    """Give each row's number, line number and content; the content is None where it is too long."""
    with source.files[partition.file].open("rb", buffering=2**20) as file:
        file.seek(partition.start)
        lines = islice(numbered_lines(file, partition.first, MAX_LINE_BYTES), partition.rows)
        for number, (line_number, line) in enumerate(lines, partition.first_row):
            yield number, line_number, line


def _cut_parquet(path: Path, partition_rows: int, source: Input) -> Iterator[tuple[int, int, int]]:
    with _open_parquet(path) as parquet:
        schema = parquet.schema_arrow
        for name in (source.columns.query, source.columns.document):
            if name not in schema.names:
                known = ", ".join(schema.names)
                raise InputFileError(str(path), None, f"has no column {name!r}, only {known}; name it with an option")
            of = schema.field(name).type
            if not _is_text(of.value_type if pa.types.is_dictionary(of) else of):
                raise InputFileError(str(path), None, f"column {name!r} holds {of}, not text")
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            for first in range(0, rows, partition_rows):
                yield min(partition_rows, rows - first), group, first


def _open_parquet(path: Path) -> pq.ParquetFile:
    # Not pre-buffered: that would hold all of a row group's compressed bytes.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)


def _is_text(of: pa.DataType) -> bool:
    return bool(pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of))


def _failed(number: int, keys: tuple[str | None, ...], error: RowError, line: int | None = None) -> Row:
    code, message = error.args
    return Row(number, keys, problem=Problem(code, message, line))


def _read_jsonl(source: Input, partition: Partition) -> Iterator[Row]:
    for number, line_number, line in _partition_lines(source, partition):
        keys: tuple[str | None, ...] = (None,)
        try:
            value = _json_object(line)
            name = value.get(source.columns.id)
            keys = (name if name is None or isinstance(name, str) else orjson.dumps(name).decode(),)
            yield Row(number, keys, *source.columns.texts(value))
        except RowError as error:
            yield _failed(number, keys, error, line_number)


def _json_object(line: bytes | None) -> dict[str, Any]:  # Any: JSON
    if line is None:
        raise RowError("row_too_large", f"the line has more than {MAX_LINE_BYTES} bytes")
    try:
        value = orjson.loads(line.decode())
    except UnicodeDecodeError:
        raise RowError("invalid_utf8", "the line is not UTF-8") from None
    except orjson.JSONDecodeError as error:
        raise RowError("invalid_json", f"the line is not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise RowError("invalid_json", "the line is no JSON object")
    return value


def _read_ids(source: Input, index: Path, partition: Partition) -> Iterator[Row]:
    """Read ids of queries and documents, from TREC runs, TREC qrels and BEIR's qrels; their texts from an index."""
    # immutable: no locks, which a shared file system may not have.
    uri = f"{index.as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as texts:
        for number, line_number, line in _partition_lines(source, partition):
            keys: tuple[str | None, ...] = (None, None)
            try:
                keys = query, document = _ids(line)
                text = _text(texts, source, "query", query)
                yield Row(number, keys, text, _text(texts, source, "document", document))
            except RowError as error:
                yield _failed(number, keys, error, line_number)


def _text(texts: sqlite3.Connection, source: Input, table: str, key: str) -> str:
    """The text of an id; of a title and a text, both. The first line that has the id counts."""
    select = f"SELECT text FROM {table} WHERE id = ? ORDER BY line LIMIT 1"  # noqa: S608 - one of two tables
    row: tuple[str] | None = texts.execute(select, (key,)).fetchone()
    if row is None:
        raise RowError(f"missing_{table}", f"no line of {source.texts[table].name} has this {table} id")
    if table == "query" and not row[0].strip():
        raise RowError("empty_query", "the query is empty")
    return row[0]


def _ids(line: bytes | None) -> tuple[str, str]:
    try:
        columns = line.decode().split() if line is not None else []
    except UnicodeDecodeError:
        raise RowError("invalid_line", "the line is not UTF-8") from None
    if len(columns) in (4, 6):
        return columns[0], columns[2]
    if len(columns) == 3:
        return columns[0], columns[1]
    raise RowError("invalid_line", "must be `query Q0 document rank score tag`, or of TREC's or BEIR's judgments")


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
            problems: list[tuple[int, str]] = []
            database.execute(f"CREATE TABLE {table} (id TEXT, line INTEGER, text TEXT)")
            insert = f"INSERT INTO {table} VALUES (?, ?, ?)"  # noqa: S608 - one of two tables
            database.executemany(insert, _texts(path, problems))
            database.execute(f"CREATE INDEX {table}_id ON {table} (id, line)")
            nth = f"SELECT line, row_number() OVER (PARTITION BY id ORDER BY line) AS nth FROM {table}"  # noqa: S608
            repeated = f"SELECT line FROM ({nth}) WHERE nth > 1 ORDER BY line LIMIT {_REPORTED}"  # noqa: S608
            problems += [(line, "has an id that an earlier line has") for (line,) in database.execute(repeated)]
            unreadable += [
                {"file": str(path), "line": line, "error": "unreadable_line", "message": problem}
                for line, problem in sorted(problems)
            ]
        database.commit()
    return unreadable


def _texts(path: Path, problems: list[tuple[int, str]]) -> Iterator[tuple[str, int, str]]:
    """Give id, line and text of each line, and note what is wrong with the first of the others."""
    try:
        with path.open("rb", buffering=2**20) as file:
            for number, raw in numbered_lines(file, longest=MAX_LINE_BYTES):
                try:
                    line = decode_line(str(path), number, raw)
                    if line.strip() and not (number == 1 and is_heading(line)):
                        key, text = parse_text_line(str(path), number, line)
                        yield key, number, text
                except InputFileError as error:
                    if len(problems) < _REPORTED:
                        problems.append((number, error.problem))
    except OSError as error:
        raise InputFileError(str(path), None, error.strerror or str(error)) from None


class ParquetReader:
    """Reads Parquet files. The pages of a row group can only be read in turn, so open row groups are kept."""

    def __init__(self, source: Input) -> None:
        self._files, self._columns = source.files, source.columns
        self._lock = threading.Lock()
        self._idle: deque[tuple[tuple[int, int], int, Iterator[dict[str, Any]]]] = deque(maxlen=_ROW_GROUPS)
        """File and row group, the number of the next row in it, and its rows from there."""

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        number, end = partition.first_row, partition.first_row + partition.rows
        try:
            rows = self._rows(partition)
            for values in islice(rows, partition.rows):
                yield self._row(number, values)
                number += 1
            with self._lock:
                self._idle.append(((partition.file, partition.start), partition.first + partition.rows, rows))
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            for left in range(number, end):
                yield Row(left, (None,), problem=Problem("unreadable", "the file is damaged here"))

    def _rows(self, partition: Partition) -> Iterator[dict[str, Any]]:  # Any: a column may have any type
        """Give a row group's rows from the partition's first one on: of an open one that is not behind it, if any."""
        group = (partition.file, partition.start)
        with self._lock:
            fitting = (one for one in self._idle if one[0] == group and one[1] <= partition.first)
            idle = next(fitting, None)
            if idle is not None:
                self._idle.remove(idle)
        _, position, rows = idle or (group, 0, self._read(*group))
        deque(islice(rows, partition.first - position), maxlen=0)
        return rows

    def _read(self, file: int, group: int) -> Iterator[dict[str, Any]]:  # Any: a column may have any type
        with _open_parquet(self._files[file]) as parquet:
            wanted = dataclasses.astuple(self._columns)
            names = [name for name in parquet.schema_arrow.names if name in wanted]
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
                for row in zip(*map(_values, batch.columns), strict=True):
                    yield dict(zip(names, row, strict=True))

    def _row(self, number: int, values: dict[str, Any]) -> Row:  # Any: a column may have any type
        name = values.get(self._columns.id)
        keys = (name.decode(errors="replace") if isinstance(name, bytes) else None if name is None else str(name),)
        try:
            return Row(number, keys, *self._columns.texts(values))
        except RowError as error:
            return _failed(number, keys, error)


def _values(column: pa.Array) -> list[Any]:  # Any: a column may have any type
    """A column's values; texts as bytes, because Parquet does not check that they are UTF-8."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return list((column.cast(pa.large_binary()) if _is_text(column.type) else column).to_pylist())


Reader: TypeAlias = Callable[[Partition], Iterator[Row]]
"""Gives the rows of a partition in their order. Called from several threads at a time."""


def open_reader(source: Input, index: Path) -> Reader:
    """Give what reads the input's rows; opens nothing yet. `index` is that of `index_texts`."""
    if source.format == "ids":
        return partial(_read_ids, source, index)
    return ParquetReader(source).read if source.format == "parquet" else partial(_read_jsonl, source)
