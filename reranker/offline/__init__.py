"""Stored pairs, scored offline; here the values that the modules share. Nothing in this package knows Ray.

`pairs` finds and reads what is to be scored, `scorer` scores a partition of it, `folder` keeps what is done; what runs
the partitions side by side is deployments/batch.py. `evaluation` measures rankings, `formats` reads files of both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no score."""

    code: str
    message: str
    """Without the row's texts."""
    line: int | None = None
    """In the input file, from 1; None: the input has no lines."""


class RowError(Exception):
    """A row cannot be scored. Stays within this package."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


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
    """Successive rows of one file: what is scored at a time, and never again."""

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
