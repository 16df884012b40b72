"""Pairs of ids: TREC runs, TREC qrels and BEIR's qrels, with files of the texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reranker.offline.evaluation import formats
from reranker.offline.lines import partition_lines
from reranker.offline.rows import Partition, Problem, Row
from reranker.offline.texts import MissingTextError, Texts

_FORM = "must be `query Q0 document rank score tag`, or of TREC's or BEIR's judgments"


def is_heading(line: bytes) -> bool:
    """Whether a first line names BEIR's columns."""
    return formats.is_heading(line.decode("utf-8", "replace"))


class IdPairs:
    """See `reranker.offline.rows.Source`."""

    def __init__(self, pairs: Path, index: Path, texts: dict[str, Path]) -> None:
        """Read this file.

        Args:
            pairs: Lines of ids.
            index: Where the texts are: `reranker.offline.texts.build_index`.
            texts: The files that it is of.
        """
        self.key_columns: tuple[str, ...] = ("query_id", "document_id")
        self._pairs, self._index, self._files = pairs, index, texts

    def read(self, partition: Partition) -> Iterator[Row]:
        """Give the rows query by query."""
        found: dict[str, list[tuple[int, int, str]]] = {}
        for number, (line_number, line) in enumerate(
            partition_lines(self._pairs, partition), start=partition.first_row
        ):
            try:
                query, document = _ids(line)
            except ValueError as error:
                yield Row(number, (None, None), problem=Problem("invalid_line", str(error), line_number))
            else:
                found.setdefault(query, []).append((number, line_number, document))
        with Texts(self._index, self._files) as texts:
            for query, rows in found.items():
                yield from _rows_of_query(texts, query, rows)


def _rows_of_query(texts: Texts, query: str, rows: list[tuple[int, int, str]]) -> Iterator[Row]:
    text, problem = _find(texts, "query", query)
    if problem is None and not text.strip():
        problem = Problem("empty_query", "the query is empty")
    for number, line_number, document in rows:
        keys = (query, document)
        found, missing = ("", problem) if problem else _find(texts, "document", document)
        if missing:
            yield Row(number, keys, problem=Problem(missing.code, missing.message, line_number))
        else:
            yield Row(number, keys, text, found)


def _find(texts: Texts, kind: str, key: str) -> tuple[str, Problem | None]:
    try:
        return texts.find(kind, key), None
    except MissingTextError as error:
        return "", Problem(f"missing_{kind}", str(error))


def _ids(line: bytes | None) -> tuple[str, str]:
    """Query and document of a line; ValueError if it has none."""
    if line is None:
        raise ValueError(_FORM)
    try:
        columns = line.decode().split()
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8") from None
    if len(columns) in (4, 6):
        return columns[0], columns[2]
    if len(columns) == 3:
        return columns[0], columns[1]
    raise ValueError(_FORM)
