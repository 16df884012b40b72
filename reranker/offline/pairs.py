"""The pairs to be scored: which files hold them, how they are cut into partitions, and how a partition is read again.

Everything is read once to cut it (`plan`), and a partition again by the engine that scores it; a file is never held in
memory. What cannot be read as a pair is a row with a problem, and never stops the reading.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.offline import Partition, Problem, Row, RowError, formats
from reranker.offline.formats import InputFileError, TextIndex, UnreadableLine, numbered_lines

Form: TypeAlias = Literal["jsonl", "parquet", "ids"]
_FORMS: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_MAX_PARTITION_BYTES = 64 * 2**20
_BATCH_ROWS = 256
_ROW_GROUPS = 2
"""Open row groups that are kept: as many as partitions are read at a time."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields of JSONL, and of the columns of Parquet."""

    query: str = "query"
    document: str = "document"
    id: str = "id"

    def texts(self, row: dict[str, Any]) -> tuple[str, str]:  # Any: JSON, or a column of any type
        """Give a row's query and document; raises RowError if it does not have both."""
        for name, what in ((self.query, "query"), (self.document, "document")):
            if row.get(name) is None:
                raise RowError(f"missing_{what}", f"there is no `{name}`")
            if row[name] is _NOT_UTF8:
                raise RowError("invalid_utf8", "a text is not UTF-8")
            if not isinstance(row[name], str):
                raise RowError("wrong_type", f"`{name}` is no text")
        if not row[self.query].strip():
            raise RowError("empty_query", f"`{self.query}` is empty")
        return row[self.query], row[self.document]


@dataclass(frozen=True, slots=True)
class Input:
    """The files of a batch."""

    form: Form
    files: tuple[Path, ...]
    """Of the pairs; of ids there is one."""
    columns: Columns
    texts: dict[str, Path] = field(default_factory=dict)
    """Of ids: the files of the texts, by kind: "query" and "document"."""

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.files, *self.texts.values())


def find_input(path: Path, columns: Columns, queries: Path | None, corpus: Path | None, split: str) -> Input:
    """Tell what a path holds: JSONL or Parquet, a folder of such files, a BEIR folder, or a file of ids.

    Args:
        path: File or folder.
        columns: Of JSONL and Parquet.
        queries: Texts for a file of ids, as is `corpus`.
        corpus: See `queries`.
        split: Of a BEIR folder without candidates: whose judged pairs.

    Raises:
        InputFileError: Nothing there, or nothing that we know.
    """
    if queries or corpus:
        if not (queries and corpus):
            raise InputFileError(str(path), None, "needs the texts of both: --queries FILE and --corpus FILE")
        found = Input("ids", (path,), columns, {"query": queries, "document": corpus})
    elif path.is_dir():
        found = _find_in_folder(path, columns, split)
    elif path.is_file() and path.suffix not in _FORMS:
        known = ", ".join(_FORMS)
        raise InputFileError(str(path), None, f"is not named {known}; a run of ids needs --queries and --corpus")
    else:
        found = Input(_FORMS.get(path.suffix, "jsonl"), (path,), columns)
    for file in found.all_files:
        if not file.is_file():
            raise InputFileError(str(file), None, "no such file")
    return found


def _find_in_folder(path: Path, columns: Columns, split: str) -> Input:
    queries, corpus = path / "queries.jsonl", path / "corpus.jsonl"
    if queries.is_file() and corpus.is_file():
        candidates, judged = path / "candidates.trec", path / "qrels" / f"{split}.tsv"
        texts = {"query": queries, "document": corpus}
        return Input("ids", (candidates if candidates.is_file() else judged,), columns, texts)
    files = sorted(file for file in path.iterdir() if file.suffix in _FORMS and file.is_file())
    forms = {_FORMS[file.suffix] for file in files}
    if len(forms) == 1:
        return Input(forms.pop(), tuple(files), columns)
    neither = "neither queries.jsonl and corpus.jsonl, nor JSONL, nor Parquet"
    raise InputFileError(str(path), None, f"holds {'both JSONL and Parquet files' if forms else neither}")


@dataclass(frozen=True, slots=True)
class Plan:
    """How an input is cut, and what it was then."""

    partitions: tuple[Partition, ...]
    digests: tuple[str, ...]
    """Of the content of `Input.all_files`."""
    unreadable: tuple[UnreadableLine, ...]
    """Lines of queries and corpus that no row can name."""


def plan(found: Input, partition_rows: int, index: Path) -> Plan:
    """Read everything once: cut it into partitions of at most so many rows, digest it, index the texts of ids.

    Raises:
        InputFileError: A file cannot be read, has none of the columns, or there is no row at all.
    """
    partitions: list[Partition] = []
    digests: list[str] = []
    rows = 0
    for number, path in enumerate(found.files):
        cut = _cut_parquet if found.form == "parquet" else _cut_lines
        for count, start, end, first_line in cut(path, partition_rows, found, digests):
            partitions.append(Partition(len(partitions), rows, count, number, start, end, first_line))
            rows += count
    if not rows:
        raise InputFileError(str(found.files[0]), None, "holds no row")
    unreadable: list[UnreadableLine] = []
    if found.texts:
        text_digests, unreadable = TextIndex.build(index, found.texts)
        digests += text_digests
    return Plan(tuple(partitions), tuple(digests), tuple(unreadable))


_Cut: TypeAlias = Iterator[tuple[int, int, int, int]]
"""`Partition`'s rows, start, end and first line; and at the end of a file its digest is noted."""


def _cut_lines(path: Path, partition_rows: int, found: Input, digests: list[str]) -> _Cut:
    """Rows are the lines that are not blank."""
    digest = blake2b(digest_size=16)
    rows = start = end = 0
    first_line = 1
    try:
        with path.open("rb", buffering=2**20) as file:
            for number, line, length in numbered_lines(file, formats.MAX_LINE_BYTES, digest.update):
                end += length
                text = line.removeprefix(_BOM) if number == 1 else line
                if number == 1 and found.form == "ids" and formats.is_heading(text.decode("utf-8", "replace")):
                    start, first_line = end, 2
                elif text.strip() or length > len(line):
                    rows += 1
                if rows >= partition_rows or (rows and end - start >= _MAX_PARTITION_BYTES):
                    yield rows, start, end, first_line
                    rows, start, first_line = 0, end, number + 1
    except OSError as error:
        raise InputFileError(str(path), None, error.strerror or str(error)) from None
    digests.append(digest.hexdigest())
    if rows:
        yield rows, start, end, first_line


def _cut_parquet(path: Path, partition_rows: int, found: Input, digests: list[str]) -> _Cut:
    try:
        with _open_parquet(path) as parquet:
            _require_texts(path, parquet.schema_arrow, found.columns)
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                for start in range(0, rows, partition_rows):
                    yield min(partition_rows, rows - start), group, start, 1
        digests.append(content_digest(path))
    except (OSError, pa.ArrowException) as error:
        raise InputFileError(str(path), None, f"cannot be read as Parquet ({type(error).__name__})") from None


def content_digest(path: Path) -> str:
    """Digest a file as `plan` does."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _open_parquet(path: Path) -> pq.ParquetFile:
    # Not pre-buffered: that would hold all of a row group's compressed bytes.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)


def _require_texts(path: Path, schema: pa.Schema, columns: Columns) -> None:
    for name in (columns.query, columns.document):
        if name not in schema.names:
            known = ", ".join(schema.names)
            raise InputFileError(str(path), None, f"has no column {name!r}, only {known}; name it with an option")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise InputFileError(str(path), None, f"column {name!r} holds {kind}, not text")


def _partition_lines(path: Path, partition: Partition) -> Iterator[tuple[int, int, bytes | None]]:
    """Give row, line and content of the lines that are not blank; content is None where it is too long."""
    row = partition.first_row
    with path.open("rb", buffering=2**20) as file:
        file.seek(partition.start)
        for number, line, length in numbered_lines(file, formats.MAX_LINE_BYTES):
            line_number = partition.first_line + number - 1
            text = line.removeprefix(_BOM) if line_number == 1 else line
            if text.strip() or length > len(line):
                yield row, line_number, text if length == len(line) else None
                row += 1
            if row == partition.first_row + partition.rows:
                return


class JsonlSource:
    """JSON lines: an object with a query and a document in each."""

    key_columns: tuple[str, ...] = ("id",)

    def __init__(self, found: Input) -> None:
        """Read these files."""
        self._files, self._columns = found.files, found.columns

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        for number, line_number, line in _partition_lines(self._files[partition.file], partition):
            keys: tuple[str | None, ...] = (None,)
            try:
                value = _json_object(line)
                name = value.get(self._columns.id)
                keys = (name if name is None or isinstance(name, str) else orjson.dumps(name).decode(),)
                yield Row(number, keys, *self._columns.texts(value))
            except RowError as error:
                yield Row(number, keys, problem=Problem(error.code, error.message, line_number))


def _json_object(line: bytes | None) -> dict[str, Any]:  # Any: JSON
    if line is None:
        raise RowError("row_too_large", f"the line has more than {formats.MAX_LINE_BYTES} bytes")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError:
            raise RowError("invalid_utf8", "the line is not UTF-8") from None
        raise RowError("invalid_json", f"the line is not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise RowError("invalid_json", "the line is no JSON object")
    return value


class IdSource:
    """Ids of queries and documents: TREC runs, TREC qrels and BEIR's qrels, with files of the texts."""

    key_columns: tuple[str, ...] = ("query_id", "document_id")

    def __init__(self, found: Input, index: Path) -> None:
        """Read this file; the texts are in `index`."""
        self._pairs, self._index, self._files = found.files[0], index, found.texts

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        with TextIndex(self._index, self._files) as texts:
            for number, line_number, line in _partition_lines(self._pairs, partition):
                keys: tuple[str | None, ...] = (None, None)
                try:
                    keys = query, document = _ids(line)
                    yield Row(number, keys, _text(texts, "query", query), _text(texts, "document", document))
                except RowError as error:
                    yield Row(number, keys, problem=Problem(error.code, error.message, line_number))


def _text(texts: TextIndex, kind: str, key: str) -> str:
    text = texts.find(kind, key)
    if text is None:
        raise RowError(f"missing_{kind}", f"no line of {texts.files[kind].name} has this {kind} id")
    if kind == "query" and not text.strip():
        raise RowError("empty_query", "the query is empty")
    return text


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


class ParquetSource:
    """Pairs in Parquet files. The pages of a row group can only be read in turn, so open row groups are kept."""

    key_columns: tuple[str, ...] = ("id",)

    def __init__(self, found: Input) -> None:
        """Read these files."""
        self._files, self._columns = found.files, found.columns
        self._lock = threading.Lock()
        self._idle: deque[_RowGroup] = deque(maxlen=_ROW_GROUPS)

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        number, end = partition.first_row, partition.first_row + partition.rows
        try:
            group = self._group(partition)
            for values in group.take(partition.end, partition.rows):
                yield self._row(number, values)
                number += 1
            self._idle.append(group)
        except (OSError, pa.ArrowException):
            for left in range(number, end):
                yield Row(left, (None,), problem=Problem("unreadable", "the file is damaged here"))

    def _group(self, partition: Partition) -> _RowGroup:
        place = (partition.file, partition.start)
        with self._lock:
            for group in self._idle:
                if group.place == place and group.position <= partition.end:
                    self._idle.remove(group)
                    return group
        return _RowGroup(place, self._files[partition.file], self._columns)

    def _row(self, number: int, values: dict[str, Any]) -> Row:  # Any: a column may have any type
        name = values.get(self._columns.id)
        keys = (None if name is None else str(name),)
        try:
            return Row(number, keys, *self._columns.texts(values))
        except RowError as error:
            return Row(number, keys, problem=Problem(error.code, error.message))


class _RowGroup:
    """Reads one row group from its first row on."""

    def __init__(self, place: tuple[int, int], path: Path, columns: Columns) -> None:
        self.place, self.position = place, 0
        self._rows = self._read(path, columns)

    def _read(self, path: Path, columns: Columns) -> Iterator[dict[str, Any]]:  # Any: a column may have any type
        with _open_parquet(path) as parquet:
            wanted = {columns.query, columns.document, columns.id}
            names = [name for name in parquet.schema_arrow.names if name in wanted]
            batches = parquet.iter_batches(_BATCH_ROWS, row_groups=[self.place[1]], columns=names, use_threads=False)
            for batch in batches:
                values = [_values(column) for column in batch.columns]
                for row in zip(*values, strict=True):
                    yield dict(zip(names, row, strict=True))

    def take(self, start: int, rows: int) -> Iterator[dict[str, Any]]:  # Any: a column may have any type
        """Give so many rows from this one on, which is not behind us."""
        skipped, self.position = start - self.position, start + rows
        yield from islice(self._rows, skipped, skipped + rows)


_NOT_UTF8 = object()
"""Stands for a text that is none: Parquet does not check what a writer calls text."""


def _values(column: pa.Array) -> list[Any]:  # Any: a column may have any type
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(one) for one in column]


def _value(scalar: pa.Scalar) -> Any:  # Any: a column may have any type
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


Source: TypeAlias = JsonlSource | IdSource | ParquetSource
"""Reads every row of a partition once. Used from several threads at a time."""


def open_source(found: Input, index: Path) -> Source:
    """Give what reads the input's rows; opens nothing yet."""
    if found.form == "ids":
        return IdSource(found, index)
    return ParquetSource(found) if found.form == "parquet" else JsonlSource(found)
