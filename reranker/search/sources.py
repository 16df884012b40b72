"""Read documents from folders and files: txt, md, jsonl, csv. A bad record is reported and left out.

A text or Markdown file is one document; its id is its path within the folder that was given. A JSON line or a CSV row
is one document: `id` or `_id`, `text`, maybe `title`; everything else is its metadata.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from reranker.errors import ConfigurationError
from reranker.search.types import Document

SUFFIXES = (".txt", ".md", ".markdown", ".jsonl", ".ndjson", ".csv", ".tsv")
_LINES = (".jsonl", ".ndjson")
_ROWS = (".csv", ".tsv")
_MAX_FIELD_CHARACTERS = 64 * 2**20  # of a CSV cell; Python's own limit is 128 KiB
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_IDS = ("id", "_id")


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that could not be read, and is left out."""

    path: str
    line: int | None
    """From 1. None: the whole file."""
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}" if self.line else f"{self.path}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be read."""

    path: Path
    name: str
    """The path within the folder that was given, or the file's own name; a text file's document has it as its id."""
    size_bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class TextFields:
    """Which fields of JSON lines and of rows are a document's text; joined by blank lines where there are several."""

    text: tuple[str, ...] = ("text",)
    title: str = "title"


def find_sources(paths: Sequence[Path], without: Path | None = None) -> list[Source]:
    """List the files to be read, always in the same order; hidden files are left out.

    Args:
        paths: Files and folders; of a folder, all files in it.
        without: A folder whose files are left out: the index itself may be among the documents.

    Raises:
        ConfigurationError: A path does not exist or is of no known kind, or there is no file to read.
    """
    found: dict[Path, Source] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
            names = [(one, one.relative_to(path)) for one in inside]
            for one, name in names:
                ours = without is not None and one.resolve().is_relative_to(without.resolve())
                if not ours and not any(part.startswith(".") for part in name.parts):
                    found.setdefault(one.resolve(), _source(one, name.as_posix()))
        elif path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise ConfigurationError(f"{path}: of no known kind; known are {', '.join(SUFFIXES)}")
            found.setdefault(path.resolve(), _source(path, path.name))
        else:
            raise ConfigurationError(f"{path}: no such file or folder")
    if not found:
        where = ", ".join(map(str, paths))
        raise ConfigurationError(f"{where}: no file to be read in it; known are {', '.join(SUFFIXES)}")
    return list(found.values())


def _source(path: Path, name: str) -> Source:
    status = path.stat()
    return Source(path, name, status.st_size, status.st_mtime_ns)


def read(source: Source, fields: TextFields) -> Iterator[Document | Reject]:
    """Yield the documents and rejects of a file, in their order."""
    suffix = source.path.suffix.lower()
    try:
        if suffix in _LINES:
            yield from _json_lines(source, fields)
        elif suffix in _ROWS:
            yield from _rows(source, fields, "\t" if suffix == ".tsv" else ",")
        else:
            yield _text_file(source, markdown=suffix != ".txt")
    except OSError as error:
        yield Reject(str(source.path), None, error.strerror or type(error).__name__)


def _text_file(source: Source, *, markdown: bool) -> Document | Reject:
    try:
        text = source.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return Reject(str(source.path), None, "is not UTF-8")
    if not text.strip():
        return Reject(str(source.path), None, "is empty")
    heading = _HEADING.search(text) if markdown else None
    return Document(source.name, text, heading[1] if heading else "", {"path": source.name})


def _json_lines(source: Source, fields: TextFields) -> Iterator[Document | Reject]:
    with source.path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield Reject(str(source.path), number, "is not UTF-8")
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                yield Reject(str(source.path), number, f"is not JSON: {reason}")
            else:
                yield _document(row, source, number, fields)


def _rows(source: Source, fields: TextFields, delimiter: str) -> Iterator[Document | Reject]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    # surrogateescape: bytes that are not UTF-8 spoil their own row only
    with source.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            heading = [name.strip() for name in next(reader, [])]
            if not set(heading) & set(fields.text):
                said = f"its first row must name the columns, one of them {' or '.join(fields.text)}"
                yield Reject(str(source.path), 1, said)
                return
            first_line = reader.line_num + 1
            for cells in reader:
                line, first_line = first_line, reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(heading):
                    yield Reject(str(source.path), line, f"has {len(cells)} cells; the first row has {len(heading)}")
                    continue
                row = {name: cell for name, cell in zip(heading, cells, strict=True) if cell != ""}
                yield _document(row, source, line, fields)
        except csv.Error as error:
            yield Reject(str(source.path), reader.line_num, f"is not CSV: {error}")


def _document(row: object, source: Source, number: int, fields: TextFields) -> Document | Reject:
    path = str(source.path)
    if isinstance(row, str):
        row = {fields.text[0]: row}
    if not isinstance(row, dict):
        return Reject(path, number, "must be an object with a `text`, or a string")
    texts = [row[name] for name in fields.text if row.get(name) is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        return Reject(path, number, f"has no string {' or '.join(f'`{name}`' for name in fields.text)}")
    text = "\n\n".join(texts)
    title = row.get(fields.title) or ""
    if not isinstance(title, str):
        return Reject(path, number, f"`{fields.title}` is no string")
    if not text.strip():
        return Reject(path, number, "its text is empty")
    try:
        orjson.dumps(row)
    except TypeError as error:
        said = "holds what is no text: bytes that are not UTF-8, or half of a surrogate pair"
        return Reject(path, number, said if "surrogate" in str(error) else f"cannot be kept: {error}")
    given = next((row[name] for name in _IDS if row.get(name) is not None), None)
    if isinstance(given, bool) or not isinstance(given, str | int | None) or given == "":
        return Reject(path, number, "its `id` is neither a string nor a whole number")
    # Without an id: by what it says, so that the same line is the same document wherever it stands.
    document = str(given) if given is not None else hashlib.sha256(text.encode()).hexdigest()[:16]
    rest = {key: value for key, value in row.items() if key not in (*_IDS, *fields.text, fields.title)}
    return Document(document, text, title, _metadata(row.get("metadata"), rest), number)


def _metadata(given: Any, rest: Mapping[str, Any]) -> Mapping[str, Any]:
    """All other fields of a row. An object named `metadata` is taken apart, as LangChain writes it."""
    if isinstance(given, dict):
        return {key: value for key, value in rest.items() if key != "metadata"} | given
    return rest
