"""Stored queries, documents and pairs; here the rows and lines that the modules share. Nothing here knows Ray.

`pairs` reads the pairs of a batch, `scorer` scores them, `folder` keeps the scores; deployments/batch.py runs many
partitions side by side. `evaluation` reads and measures retrieval experiments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_LINE_BYTES = 16 * 2**20
"""A longer line of a batch's input is reported, and never read into memory."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no score."""

    code: str
    message: str
    """Without the row's texts."""
    line: int | None = None
    """In the input file, from 1. None: the input has no lines."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair of an input; or, with a problem, the place where one was expected."""

    number: int
    """Position in the whole input, from 0."""
    keys: tuple[str | None, ...] = ()
    """The row's own names, one for each of the input's `key_columns`."""
    query: str = ""
    document: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class RowScore:
    """The result for a row."""

    number: int
    keys: tuple[str | None, ...]
    score: float | None = None
    """Relevance score in [0, 1]. None: there is a problem."""
    log_odds: float | None = None
    truncated: bool = False
    problem: Problem | None = None


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


def numbered_lines(file: BinaryIO, first: int = 1, longest: int = -1) -> Iterator[tuple[int, bytes | None]]:
    """Yield number and content of each line that is not blank, without the byte order mark of line 1.

    Only line feeds end a line, as JSON lines want it. The content of a line of more than `longest` bytes is None; such
    a line is never held in memory.
    """
    for number in itertools.count(first):
        line = part = file.readline(longest)
        if not line:
            return
        too_long = False
        while len(part) == longest and not part.endswith(b"\n"):
            part = file.readline(longest)
            too_long = too_long or bool(part)
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if too_long or text.strip():
            yield number, None if too_long else text
