"""The files of retrieval experiments: documents, BEIR queries and corpora, TREC runs and judgments.

A line that cannot be read stops the reading with its file and number; only blank lines are skipped. (ir-measures has
readers, too; they name no line, and do not read BEIR.)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

from reranker.errors import RerankerError

Judgments: TypeAlias = dict[str, dict[str, int]]
"""Query id -> document id -> relevance; 0 and less: judged, not relevant."""
Run: TypeAlias = dict[str, list[str]]
"""Query id -> document ids, best first."""

MAX_LINE_BYTES = 16 * 2**20
"""A line of a batch's input that is longer is reported, and never read into memory."""
_REPORTED = 1_000
"""Unreadable lines of a file of texts that are reported."""
_ID_HEADERS = frozenset({"_id", "id", "qid", "docid", "query-id", "corpus-id", "query_id", "corpus_id"})


class InputFileError(RerankerError):
    """A file given to a command cannot be used."""

    code = "input_file"

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        super().__init__(path, line, problem)  # pickle rebuilds from these
        self.path, self.line, self.problem = path, line, problem

    def __str__(self) -> str:
        where = "standard input" if self.path == "-" else self.path
        return f"{where}:{self.line}: {self.problem}" if self.line else f"{where}: {self.problem}"


def numbered_lines(
    file: BinaryIO, longest: int = -1, seen: Callable[[bytes], object] = len
) -> Iterator[tuple[int, bytes, int]]:
    """Yield each line's number from 1, its bytes, and its whole length.

    Only line feeds end a line, as JSON lines want it. A line of more than `longest` bytes is cut there; the rest is
    read past, never held. `seen` gets every byte.
    """
    number = 0
    while line := file.readline(longest):
        seen(line)
        number, length, part = number + 1, len(line), line
        while len(part) == longest and not part.endswith(b"\n"):
            part = file.readline(longest)
            seen(part)
            length += len(part)
        yield number, line, length


def decode_line(path: str, number: int, raw: bytes) -> str:
    """Make text of a line, without its end.

    Raises:
        InputFileError: It is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputFileError(path, number, "is not UTF-8") from None


def is_heading(line: str) -> bool:
    """Whether a first line names columns instead of filling them."""
    return line.split("\t")[0] in _ID_HEADERS


def parse_text_line(path: str, number: int, line: str) -> tuple[str, str]:
    """Read one line of queries or of a corpus; see `read_texts`.

    Returns:
        Id and text; a title goes before the text, with a space.

    Raises:
        InputFileError: It is malformed.
    """
    if line.startswith("{"):
        row = _json(path, number, line)
        key = row.get("_id")
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not key:
            raise InputFileError(path, number, "has no `_id`")
        text = _string(path, number, row, "text")
        title = _string(path, number, row, "title") if row.get("title") else ""
    else:
        key, *columns = line.split("\t")
        if not key or len(columns) not in (1, 2):
            raise InputFileError(path, number, "must be an object with `_id` and `text`, or id<TAB>text")
        *titles, text = columns
        title = "".join(titles)
    return key, f"{title} {text}".strip() if title else text


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            for number, raw, _ in numbered_lines(file):
                line = decode_line(path, number, raw)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputFileError(path, None, error.strerror or str(error)) from None


def _json(path: str, number: int, line: str) -> Any:  # Any: JSON
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise InputFileError(path, number, f"is not JSON: {reason}") from None


def _string(path: str, number: int, row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise InputFileError(path, number, f"has no string `{key}`")
    return _sound(path, number, row[key])


def _sound(path: str, number: int, text: str) -> str:
    """JSON can hold half of a surrogate pair, which no encoding can carry to a service."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputFileError(path, number, "holds half of a surrogate pair, which is no text")
    return text


def read_documents(path: str) -> list[str]:
    """Read the candidates of one query.

    Args:
        path: A text file with one document a line, or JSON lines: strings, or objects with a `text`. JSON lines are
            what a file named `.jsonl` holds, and one whose first line is such an object. "-": standard input.

    Raises:
        InputFileError: Unreadable, malformed or empty.
    """
    documents: list[str] = []
    as_json = path.endswith(".jsonl")
    for number, line in _lines(path):
        if not documents and not as_json:
            with contextlib.suppress(InputFileError):
                first = _json(path, number, line)
                as_json = isinstance(first, dict) and "text" in first
        value = _json(path, number, line) if as_json else line
        if isinstance(value, dict):
            documents.append(_string(path, number, value, "text"))
        elif isinstance(value, str):
            documents.append(_sound(path, number, value))
        else:
            raise InputFileError(path, number, "must be a string or an object with a `text`")
    if not documents:
        raise InputFileError(path, None, "holds no document; one a line is expected")
    return documents


def read_texts(path: str, wanted: Container[str]) -> dict[str, str]:
    """Read queries or a corpus.

    Args:
        path: BEIR's JSON lines (`_id`, `text`, maybe `title`), or tab-separated values: id and text, or id, title and
            text, with or without a line of headings.
        wanted: Ids to keep; a corpus may be much larger than the candidates.

    Returns:
        Id -> text; a title goes before the text, with a space.

    Raises:
        InputFileError: Unreadable, malformed, or the same id twice.
    """
    texts: dict[str, str] = {}
    for position, (number, line) in enumerate(_lines(path)):
        if position == 0 and is_heading(line):
            continue
        key, text = parse_text_line(path, number, line)
        if key in texts:
            raise InputFileError(path, number, f"has the id {key!r} a second time")
        if key in wanted:
            texts[key] = text
    return texts


def read_judgments(path: str) -> Judgments:
    """Read TREC's four columns, or BEIR's three with a line of headings.

    Raises:
        InputFileError: Unreadable, malformed, contradictory or empty.
    """
    judgments: Judgments = {}
    for position, (number, line) in enumerate(_lines(path)):
        columns = line.split("\t") if line.count("\t") == 2 else line.split()
        if position == 0 and columns[0] in _ID_HEADERS:
            continue
        if len(columns) not in (3, 4):
            raise InputFileError(path, number, "must be `query 0 document relevance`, or three columns without the 0")
        query, document, relevance = columns[0], columns[-2], columns[-1]
        try:
            value = int(relevance)
        except ValueError:
            raise InputFileError(path, number, f"the relevance {relevance!r} is no whole number") from None
        if judgments.setdefault(query, {}).setdefault(document, value) != value:
            raise InputFileError(path, number, f"judges document {document!r} a second time, and differently")
    if not judgments:
        raise InputFileError(path, None, "holds no judgment")
    return judgments


def read_run(path: str) -> Run:
    """Read the candidates in TREC's six columns: query, Q0, document, rank, score, tag.

    Returns:
        Each query's documents by score, best first; equal scores by rank. (trec_eval orders those by id.)

    Raises:
        InputFileError: Unreadable, malformed, a document twice for a query, or empty.
    """
    places: dict[str, dict[str, tuple[float, int]]] = {}
    for number, line in _lines(path):
        columns = line.split(maxsplit=5)
        if len(columns) != 6:
            raise InputFileError(path, number, "must be `query Q0 document rank score tag`")
        query, _, document, rank, score, _ = columns
        try:
            place = (-float(score), int(rank))
        except ValueError:
            raise InputFileError(path, number, f"rank {rank!r} or score {score!r} is no number") from None
        if not math.isfinite(place[0]):
            raise InputFileError(path, number, f"the score {score!r} is not finite")
        if document in places.setdefault(query, {}):
            raise InputFileError(path, number, f"has document {document!r} a second time for query {query!r}")
        places[query][document] = place
    if not places:
        raise InputFileError(path, None, "holds no candidate")
    return {query: sorted(of_query, key=of_query.__getitem__) for query, of_query in places.items()}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a TREC run with the name `tag`; `run` is best first."""
    lines = (
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, ranking in run.items()
        for rank, (document, score) in enumerate(ranking, start=1)
    )
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputFileError(str(path), None, f"cannot be written ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line of a file of texts that has no id or no text, or an id that an earlier line has."""

    path: str
    line: int
    problem: str


class TextIndex:
    """The texts of queries and documents on disk, by id: for corpora larger than memory. For one thread at a time."""

    def __init__(self, index: Path, files: dict[str, Path]) -> None:
        """Open what `build` wrote of these files, by kind: "query" and "document"."""
        # immutable: no locks, which a shared file system may not have.
        self._database = sqlite3.connect(f"{index.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self.files = files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def find(self, kind: str, key: str) -> str | None:
        """Give the text of an id; of a title and a text, both. The first line that has the id counts."""
        select = f"SELECT text FROM {kind} WHERE id = ? ORDER BY line LIMIT 1"  # noqa: S608 - one of two kinds
        found: tuple[str] | None = self._database.execute(select, (key,)).fetchone()
        return found[0] if found else None

    @staticmethod
    def build(index: Path, files: dict[str, Path]) -> tuple[list[str], list[UnreadableLine]]:
        """Write an index of files as `read_texts` takes them; it is there when all of it is.

        Returns:
            The files' digests, and the first of the lines that cannot be read.

        Raises:
            InputFileError: A file cannot be read.
        """
        building = index.with_name(f"{index.name}.{os.getpid()}.building")
        building.unlink(missing_ok=True)
        digests: list[str] = []
        unreadable: list[UnreadableLine] = []
        with contextlib.closing(sqlite3.connect(building)) as database:
            database.execute("PRAGMA journal_mode = OFF")  # a crash leaves a file that nobody opens
            database.execute("PRAGMA synchronous = OFF")
            for kind, path in files.items():
                unreadable += _add_texts(database, kind, path, digests)
            database.commit()
        with building.open("rb") as written:
            os.fsync(written.fileno())
        building.replace(index)
        return digests, unreadable


def _whole_line(path: str, number: int, line: bytes, length: int) -> str:
    if length > len(line):
        raise InputFileError(path, number, f"has more than {MAX_LINE_BYTES} bytes")
    return decode_line(path, number, line)


def _add_texts(database: sqlite3.Connection, kind: str, path: Path, digests: list[str]) -> list[UnreadableLine]:
    unreadable: list[UnreadableLine] = []
    digest = blake2b(digest_size=16)

    def texts(file: BinaryIO) -> Iterator[tuple[str, int, str]]:
        for number, line, length in numbered_lines(file, MAX_LINE_BYTES, digest.update):
            try:
                text = _whole_line(str(path), number, line, length)
                if text.strip() and not (number == 1 and is_heading(text)):
                    key, text = parse_text_line(str(path), number, text)
                    yield key, number, text
            except InputFileError as error:
                if len(unreadable) < _REPORTED:
                    unreadable.append(UnreadableLine(str(path), number, error.problem))

    database.execute(f"CREATE TABLE {kind} (id TEXT, line INTEGER, text TEXT)")
    try:
        with path.open("rb", buffering=2**20) as file:
            database.executemany(f"INSERT INTO {kind} VALUES (?, ?, ?)", texts(file))  # noqa: S608 - one of two kinds
    except OSError as error:
        raise InputFileError(str(path), None, error.strerror or str(error)) from None
    digests.append(digest.hexdigest())
    database.execute(f"CREATE INDEX {kind}_id ON {kind} (id, line)")
    nth = f"SELECT line, row_number() OVER (PARTITION BY id ORDER BY line) AS nth FROM {kind}"  # noqa: S608 - as above
    repeated = database.execute(f"SELECT line FROM ({nth}) WHERE nth > 1 ORDER BY line LIMIT {_REPORTED}")  # noqa: S608
    unreadable += [UnreadableLine(str(path), line, "has an id that an earlier line has") for (line,) in repeated]
    return sorted(unreadable, key=lambda one: one.line)
