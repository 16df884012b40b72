"""The values of a batch: rows and partitions of an input, and what becomes of a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_ROW_BYTES = 16 * 2**20
"""A line longer than this is reported, and never read into memory."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no score."""

    code: str
    message: str
    """Without the row's texts."""
    line: int | None = None
    """In the input file, from 1; None: the input has no lines."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of an input; or, with a problem, the place where one was expected."""

    number: int
    """Position in the whole input, from 0."""
    keys: tuple[str | None, ...] = ()
    """The row's own names, one for each of the source's `key_columns`."""
    query: str = ""
    document: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """Some successive rows of one file: what is scored at a time, and never again."""

    number: int
    first_row: int
    rows: int
    file: int
    """Index of the file in the input."""
    start: int
    """First byte; of a Parquet file the row group."""
    end: int
    """Byte after the last; of a Parquet file the first row within the row group."""
    first_line: int = 1
    """Number of its first line in the file."""


@dataclass(frozen=True, slots=True)
class RowScore:
    """What became of a row."""

    number: int
    keys: tuple[str | None, ...]
    score: float | None
    """Relevance score in [0, 1]. None: there is a problem."""
    log_odds: float | None
    truncated: bool
    problem: Problem | None = None


class Source(Protocol):
    """Reads the rows of an input. Used from several threads at a time."""

    key_columns: tuple[str, ...]

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give every row of a partition once, in any order; what cannot be read as a row with its problem."""
        ...
