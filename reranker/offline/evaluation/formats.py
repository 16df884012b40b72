"""Read and write the files of retrieval experiments: documents, BEIR queries and corpora, TREC runs and judgments.

A line that cannot be read stops the reading with the file and the line; nothing is skipped except empty lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reranker.errors import RerankerError

Judgments: TypeAlias = dict[str, dict[str, int]]
"""Query id -> document id -> relevance; 0 and less: judged, not relevant."""
Run: TypeAlias = dict[str, list[str]]
"""Query id -> document ids, best first."""

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
            as_json = _is_text_object(line)
        if not as_json:
            documents.append(line)
            continue
        value = _json(path, number, line)
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
        if key not in wanted:
            continue
        if key in texts:
            raise InputFileError(path, number, f"has the id {key!r} a second time")
        texts[key] = text
    return texts


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


def is_heading(line: str) -> bool:
    """Whether a first line names columns instead of filling them."""
    return line.split("\t")[0] in _ID_HEADERS


def decode_line(path: str, number: int, raw: bytes) -> str:
    """Make text of a line, without its end.

    Raises:
        InputFileError: It is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputFileError(path, number, "is not UTF-8") from None


def read_judgments(path: str) -> Judgments:
    """Read who is relevant: TREC's four columns, or BEIR's three with a line of headings.

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
    found: dict[str, dict[str, tuple[float, int]]] = {}
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
        if document in found.setdefault(query, {}):
            raise InputFileError(path, number, f"has document {document!r} a second time for query {query!r}")
        found[query][document] = place
    if not found:
        raise InputFileError(path, None, "holds no candidate")
    return {query: sorted(places, key=places.__getitem__) for query, places in found.items()}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a TREC run.

    Args:
        path: Replaced if there.
        run: Query id -> (document id, score), best first.
        tag: The run's name.
    """
    lines: Iterable[str] = (
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, ranking in run.items()
        for rank, (document, score) in enumerate(ranking, start=1)
    )
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputFileError(str(path), None, f"cannot be written ({error.strerror})") from None


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1; only line feeds end one, as JSON lines want it."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            for number, raw in enumerate(file, start=1):
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


def _is_text_object(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "text" in value


def _string(path: str, number: int, row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise InputFileError(path, number, f"has no string `{key}`")
    return _sound(path, number, row[key])


def _sound(path: str, number: int, text: str) -> str:
    """JSON can hold half of a surrogate pair, which no encoding can carry to a service."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputFileError(path, number, "holds half of a surrogate pair, which is no text")
    return text
