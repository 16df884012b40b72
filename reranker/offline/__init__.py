"""Stored queries, documents and pairs; here the rows and lines that the modules share. Nothing here knows Ray.

`pairs` reads the pairs of a batch, `scorer` scores them, `folder` keeps the scores; deployments/batch.py runs many
partitions side by side. `evaluation` reads and measures retrieval experiments.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is reported, and never read into memory."""
_HEADINGS = frozenset(b"_id id qid docid query-id corpus-id query_id corpus_id".split())


class RowError(Exception):
    """Becomes a row's error, or an InputFileError: why, without texts, and a code of docs/batch.md."""

    def __init__(self, problem: str, code: str = "invalid_line") -> None:
        super().__init__(problem, code)
        self.problem, self.code = problem, code


@dataclass(slots=True)
class Row:
    """One pair of an input, and then its score; or, with an error, the place where one was expected."""

    number: int
    """Position in the whole input, from 0."""
    keys: tuple[str | None, ...] = ()
    """The row's own names, one for each of the input's `key_columns`."""
    query: str = ""
    document: str = ""
    score: float | None = None
    """Relevance score in [0, 1]."""
    log_odds: float | None = None
    truncated: bool = False
    error: str | None = None
    """A code of docs/batch.md; the row has no score then."""
    message: str = ""
    """About the error; without the row's texts."""
    line: int | None = None
    """Of an error in a file with lines, from 1."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Successive rows of one file, which are scored together and only once."""

    number: int
    first_row: int
    rows: int
    file: int
    """Index of the file in the input."""
    start: int
    """First byte; of a Parquet file the row group."""
    first: int
    """Number of its first line, from 1; of a Parquet file that of its first row within the row group, from 0."""


def lines_of(file: BinaryIO, first: int = 1, *, headed: bool = False) -> Iterator[tuple[int, bytes | None]]:
    """Yield number and content of each line that is not blank, without the byte order mark of line 1.

    Only line feeds end a line, as JSON lines want it. One of more than `MAX_LINE_BYTES` is None. `headed`: line 1 is
    left out if it names columns instead of filling them.
    """
    for number in itertools.count(first):
        line = part = file.readline(MAX_LINE_BYTES)
        if not line:
            return
        too_long = False
        while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = file.readline(MAX_LINE_BYTES)
            too_long = too_long or bool(part)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if headed and (line.split(maxsplit=1) or [b""])[0] in _HEADINGS:
                continue
        if too_long or line.strip():
            yield number, None if too_long else line.rstrip(b"\r\n")


def text_of(line: bytes | None) -> str:
    if line is None:
        raise RowError(f"has more than {MAX_LINE_BYTES} bytes", "row_too_large")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise RowError("is not UTF-8", "invalid_utf8") from None


def parse_json(line: str) -> Any:  # Any: JSON
    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(line)
    try:  # more is JSON here: NaN, for example
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can hold it, and no encoding can carry it to a service
        raise RowError("holds half of a surrogate pair, which is no text", "invalid_json") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"is not JSON: {getattr(error, 'msg', type(error).__name__)}", "invalid_json") from None
    return value


def string(value: object, problem: str, code: str = "invalid_line") -> str:
    if not isinstance(value, str):
        raise RowError(problem, code)
    return value
