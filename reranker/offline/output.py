"""The files of scores: one for each partition, Parquet or JSON lines; and what is made of all of them at the end."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.offline.files import replacing
from reranker.offline.folder import BatchFolder, Manifest
from reranker.offline.rows import RowScore


def write_scores(path: Path, rows: Sequence[RowScore], key_columns: Sequence[str]) -> None:
    """Write the scores of a partition, whole or not at all.

    Args:
        path: Its suffix says in which form: ".parquet" or ".jsonl".
        rows: Of the partition, in their order.
        key_columns: Names of the rows' keys.
    """
    columns: dict[str, list[Any]] = {"row": [one.number for one in rows]}
    columns |= {name: [one.keys[i] for one in rows] for i, name in enumerate(key_columns)}
    columns["score"] = [one.score for one in rows]
    columns["log_odds"] = [one.log_odds for one in rows]
    columns["truncated"] = [one.truncated for one in rows]
    columns["error"] = [one.problem.code if one.problem else None for one in rows]
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.table(columns, schema=_schema(key_columns)), temporary)
            return
        with temporary.open("wb") as file:
            for values in zip(*columns.values(), strict=True):
                file.write(orjson.dumps(dict(zip(columns, values, strict=True))) + b"\n")


def _schema(key_columns: Sequence[str]) -> pa.Schema:
    keys = [(name, pa.string()) for name in key_columns]
    scores = [("score", pa.float64()), ("log_odds", pa.float64()), ("truncated", pa.bool_()), ("error", pa.string())]
    return pa.schema([("row", pa.int64()), *keys, *scores])


def problems_of(rows: Sequence[RowScore], key_columns: Sequence[str]) -> list[dict[str, Any]]:  # Any: JSON
    """The lines of errors.jsonl for these rows."""
    return [
        {"row": one.number, **dict(zip(key_columns, one.keys, strict=True)), "line": problem.line}
        | {"error": problem.code, "message": problem.message}
        for one in rows
        if (problem := one.problem) is not None
    ]


def write_errors(folder: BatchFolder, manifest: Manifest) -> int:
    """Write all problems to one file, whole or not at all; returns how many rows have no score."""
    failed = 0
    with replacing(folder.errors) as temporary, temporary.open("wb") as file:
        for unreadable in manifest.unreadable:
            line = {"file": unreadable.path, "line": unreadable.line}
            file.write(orjson.dumps(line | {"error": "unreadable_line", "message": unreadable.problem}) + b"\n")
        for partition in manifest.partitions:
            for problem in (folder.record(partition.number) or {})["errors"]:
                file.write(orjson.dumps(problem) + b"\n")
                failed += 1
    return failed


def write_run(folder: BatchFolder, manifest: Manifest) -> None:
    """Write a TREC run of all rows that have a score: queries as they first come, documents best first.

    Rows of a query may be anywhere in the input, so they are sorted on disk. A pair that comes twice is once in the
    run, as trec_eval wants it; in the scores it is twice.
    """
    database = folder.path / "state" / "run.sqlite"
    database.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as rows:
        rows.execute("PRAGMA journal_mode = OFF")
        rows.execute("PRAGMA synchronous = OFF")
        rows.execute("CREATE TABLE pairs (query TEXT, document TEXT, row INTEGER, score REAL)")
        for partition in manifest.partitions:
            scored = _read_scores(folder.scores(partition.number))
            rows.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", scored)
        rows.execute("CREATE INDEX by_query ON pairs (query, document, row)")
        rows.execute("CREATE TABLE queries AS SELECT query, min(row) AS first FROM pairs GROUP BY query")
        with replacing(folder.run) as temporary, temporary.open("w", encoding="utf-8") as file:
            best = rows.execute(
                "SELECT queries.query, document, score FROM queries JOIN"
                " (SELECT query, document, min(row) AS row, score FROM pairs GROUP BY query, document) AS once"
                " ON queries.query = once.query ORDER BY first, score DESC, row"
            )
            query, rank = None, 0
            for of, document, score in best:
                query, rank = of, rank + 1 if of == query else 1
                file.write(f"{of} Q0 {document} {rank} {score!r} reranker\n")
    database.unlink()


def _read_scores(path: Path) -> Iterator[tuple[str, str, int, float]]:
    columns = ("query_id", "document_id", "row", "score")
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=list(columns), use_threads=False).to_pylist()
    else:
        table = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return (tuple(row[name] for name in columns) for row in table if row["score"] is not None)
