"""Pairs as JSON lines: an object with a query and a document in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from reranker.offline.columns import Columns
from reranker.offline.lines import partition_lines
from reranker.offline.rows import MAX_ROW_BYTES, Partition, Problem, Row

_TOO_LONG = f"the line has more than {MAX_ROW_BYTES} bytes"


class JsonLines:
    """See `reranker.offline.rows.Source`."""

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        """Read these files."""
        self.key_columns: tuple[str, ...] = ("id",)
        self._files, self._columns = files, columns

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows in their order."""
        lines = partition_lines(self._files[partition.file], partition)
        for number, (line_number, line) in enumerate(lines, start=partition.first_row):
            yield self._row(number, line_number, line)

    def _row(self, number: int, line_number: int, line: bytes | None) -> Row:
        if line is None:
            return _bad(number, line_number, "row_too_large", _TOO_LONG)
        try:
            value: Any = orjson.loads(line)  # Any: JSON
        except ValueError as error:
            try:
                line.decode()
            except UnicodeDecodeError:
                return _bad(number, line_number, "invalid_utf8", "the line is not UTF-8")
            reason = error.msg if isinstance(error, orjson.JSONDecodeError) else "it cannot be read"
            return _bad(number, line_number, "invalid_json", f"the line is not JSON: {reason}")
        if not isinstance(value, dict):
            return _bad(number, line_number, "invalid_json", "the line is no JSON object")
        name = value.get(self._columns.id)
        keys = (name if name is None or isinstance(name, str) else orjson.dumps(name).decode(),)
        return self._columns.row(number, keys, value.get, line_number)


def _bad(number: int, line_number: int, code: str, message: str) -> Row:
    return Row(number, (None,), problem=Problem(code, message, line_number))
