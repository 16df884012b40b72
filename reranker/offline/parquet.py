"""Pairs in Parquet files. A partition is a slice of a row group; a file is never read into memory as a whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reranker.offline.columns import Columns
from reranker.offline.evaluation.formats import InputFileError
from reranker.offline.lines import PartitionCutter
from reranker.offline.rows import Partition, Problem, Row

_BATCH_ROWS = 256
_IDLE_CURSORS = 2
"""As many as partitions are read at a time."""
_UNREADABLE = "the file is damaged here"


class NotUtf8(str):
    """Stands for a text that is none."""


_NOT_UTF8 = NotUtf8()


def cut_parquet(cutter: PartitionCutter, path: Path, file: int, columns: Columns) -> None:
    """Cut one file into partitions.

    Args:
        cutter: Takes the partitions.
        path: The file.
        file: Its index in the input.
        columns: What it must have.

    Raises:
        InputFileError: Unreadable, or without these columns, or they hold no texts.
    """
    try:
        with _open(path) as parquet:
            _require_texts(path, parquet.schema_arrow, columns)
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                for start in range(0, rows, cutter.partition_rows):
                    cutter.add(min(cutter.partition_rows, rows - start), file, group, start)
    except (OSError, pa.ArrowException) as error:
        raise InputFileError(str(path), None, f"cannot be read as Parquet ({type(error).__name__})") from None


def _open(path: Path) -> pq.ParquetFile:
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


class ParquetPairs:
    """See `reranker.offline.rows.Source`."""

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        """Read these files."""
        self.key_columns: tuple[str, ...] = ("id",)
        self._files, self._columns = files, columns
        self._lock = threading.Lock()
        self._idle: deque[_Cursor] = deque(maxlen=_IDLE_CURSORS)

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        number = partition.first_row
        try:
            cursor = self._cursor(partition)
            for values in cursor.take(partition.end, partition.rows):
                yield self._row(number, values)
                number += 1
            self._idle.append(cursor)
        except (OSError, pa.ArrowException):
            for left in range(number, partition.first_row + partition.rows):
                yield Row(left, (None,), problem=Problem("unreadable", _UNREADABLE))

    def _cursor(self, partition: Partition) -> _Cursor:
        """One that can go on to the partition: the pages of a row group can only be read one after the other."""
        place = (partition.file, partition.start)
        with self._lock:
            for cursor in self._idle:
                if cursor.place == place and cursor.position <= partition.end:
                    self._idle.remove(cursor)
                    return cursor
        return _Cursor(place, self._files[partition.file], self._columns)

    def _row(self, number: int, values: dict[str, Any]) -> Row:  # Any: a column may have any type
        name = values.get(self._columns.id)
        keys = (None if name is None else str(name),)
        if any(values[column] is _NOT_UTF8 for column in (self._columns.query, self._columns.document)):
            return Row(number, keys, problem=Problem("invalid_utf8", "a text is not UTF-8"))
        return self._columns.row(number, keys, values.get)


class _Cursor:
    """Reads one row group from its first row to its last."""

    def __init__(self, place: tuple[int, int], path: Path, columns: Columns) -> None:
        self.place = place
        self.position = 0
        self._parquet = _open(path)
        wanted = {columns.query, columns.document, columns.id}
        names = [name for name in self._parquet.schema_arrow.names if name in wanted]
        self._batches = self._parquet.iter_batches(_BATCH_ROWS, row_groups=[place[1]], columns=names, use_threads=False)
        self._left: pa.RecordBatch | None = None

    def take(self, start: int, rows: int) -> Iterator[dict[str, Any]]:  # Any: a column may have any type
        """Give so many rows from this one on, which is not behind us."""
        end = start + rows
        while self.position < end:
            batch = self._left if self._left is not None else next(self._batches, None)
            if batch is None:
                return
            self._left = None
            if self.position + len(batch) <= start:
                self.position += len(batch)
                continue
            first = max(0, start - self.position)
            last = min(len(batch), end - self.position)
            self.position += last
            if last < len(batch):
                self._left = batch.slice(last)
            columns = {name: _values(batch.column(name)[first:last]) for name in batch.schema.names}
            for i in range(last - first):
                yield {name: column[i] for name, column in columns.items()}


def _values(column: pa.Array) -> list[Any]:  # Any: a column may have any type
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # Parquet does not check what a writer calls text
        return [_value(one) for one in column]


def _value(scalar: pa.Scalar) -> Any:  # Any: a column may have any type
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8
