"""Where in their files the texts of queries and documents are: an index on disk, for corpora larger than memory.

A pair of a TREC run is two ids. The texts stay where they are; of each line the index keeps id, offset and length.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Self

from reranker.offline.evaluation import formats
from reranker.offline.evaluation.formats import InputFileError
from reranker.offline.lines import measured_lines
from reranker.offline.rows import MAX_ROW_BYTES

KINDS = ("query", "document")
_REPORTED = 1_000
"""Unreadable lines of a file that are kept; more are only counted."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line of a file of texts that has no id, or an id that an earlier line has."""

    path: str
    line: int
    problem: str


@dataclass(frozen=True, slots=True)
class Indexed:
    """What was found in one file of texts."""

    digest: str
    texts: int
    unreadable: tuple[Unreadable, ...]
    """The first of them."""


class MissingTextError(Exception):
    """An id is in no line, or its line holds no text. Stays within this package."""


def build_index(index: Path, files: dict[str, Path]) -> dict[str, Indexed]:
    """Write the index; it is there when all of it is.

    Args:
        index: Where to; replaced if there.
        files: By kind: `formats.read_texts` says what may be in them.

    Raises:
        InputFileError: One cannot be read.
    """
    building = index.with_name(f"{index.name}.{os.getpid()}.building")
    building.unlink(missing_ok=True)
    found = {}
    with contextlib.closing(sqlite3.connect(building)) as database:
        database.execute("PRAGMA journal_mode = OFF")  # a crash leaves a file that nobody opens
        database.execute("PRAGMA synchronous = OFF")
        for kind, path in files.items():
            database.execute(f"CREATE TABLE {kind} (id TEXT, start INTEGER, length INTEGER, line INTEGER)")
            found[kind] = _add_file(database, kind, path)
        database.commit()
    with building.open("rb") as written:
        os.fsync(written.fileno())
    building.replace(index)
    return found


def _add_file(database: sqlite3.Connection, kind: str, path: Path) -> Indexed:
    digest = blake2b(digest_size=16)
    unreadable: list[Unreadable] = []

    def places() -> Iterator[tuple[str, int, int, int]]:
        start = 0
        for number, (line, length) in enumerate(measured_lines(path, digest.update), start=1):
            place, start = start, start + length
            try:
                key = _key(path, number, line, length)
            except InputFileError as error:
                if len(unreadable) < _REPORTED:
                    unreadable.append(Unreadable(str(path), number, error.problem))
            else:
                if key is not None:
                    yield key, place, length, number

    statement = f"INSERT INTO {kind} VALUES (?, ?, ?, ?)"  # noqa: S608 - one of KINDS
    count = database.executemany(statement, places()).rowcount
    database.execute(f"CREATE INDEX {kind}_id ON {kind} (id, start)")
    again = f"SELECT line, row_number() OVER (PARTITION BY id ORDER BY start) AS nth FROM {kind}"  # noqa: S608 - as above
    repeated = database.execute(f"SELECT line FROM ({again}) WHERE nth > 1 ORDER BY line LIMIT {_REPORTED}")  # noqa: S608
    unreadable += [Unreadable(str(path), line, "has an id that an earlier line has") for (line,) in repeated]
    return Indexed(digest.hexdigest(), count, tuple(sorted(unreadable, key=lambda one: one.line)))


def _key(path: Path, number: int, line: bytes, length: int) -> str | None:
    if length > MAX_ROW_BYTES:
        raise InputFileError(str(path), number, f"has more than {MAX_ROW_BYTES} bytes")
    text = formats.decode_line(str(path), number, line)
    if not text.strip() or (number == 1 and formats.is_heading(text)):
        return None
    return formats.parse_text_line(str(path), number, text)[0]


class Texts:
    """Looks texts up. For one thread at a time; close it."""

    def __init__(self, index: Path, files: dict[str, Path]) -> None:
        """Open what `build_index` wrote."""
        # immutable: no locks, which a shared file system may not have.
        self._database = sqlite3.connect(f"{index.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self._paths = files
        self._streams: dict[str, BinaryIO] = {kind: path.open("rb") for kind, path in files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        for stream in self._streams.values():
            stream.close()

    def find(self, kind: str, key: str) -> str:
        """Give the text of an id; of a title and a text, both. The first line that has the id counts.

        Raises:
            MissingTextError: There is none.
        """
        select = f"SELECT start, length FROM {kind} WHERE id = ? ORDER BY start LIMIT 1"  # noqa: S608 - one of KINDS
        place = self._database.execute(select, (key,)).fetchone()
        if place is None:
            raise MissingTextError(f"no line of {self._paths[kind].name} has this {kind} id")
        stream, path = self._streams[kind], str(self._paths[kind])
        stream.seek(place[0])
        try:
            line = formats.decode_line(path, 1 if place[0] == 0 else 2, stream.read(place[1]))
            return formats.parse_text_line(path, 1, line)[1]
        except InputFileError as error:
            raise MissingTextError(f"the {kind}'s line in {self._paths[kind].name} {error.problem}") from None
