"""The folder of a batch: what is scored, which partitions are done, and their scores.

    manifest.json         what is scored, with what; another input, model or setting is refused
    scores/00000.parquet  one row for each of the input's, partition by partition
    errors.jsonl          rows without a score, and why; written when the batch is complete, as are
    run.trec, report.json
    state/                records of the partitions that are done, the index of texts

A partition is done when its record in state/ is there, and its scores have the size that the record names. Every file
appears whole or not at all, and is on the disk before another file says that it is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.errors import BatchError
from reranker.offline import Partition, Row, pairs
from reranker.offline.pairs import Input
from reranker.search.index import replacing

_VERSION = 4
_OURS = ("manifest.json", "scores", "errors.jsonl", "run.trec", "report.json", "state")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a batch scores, and how it is cut."""

    settings: dict[str, Any]
    """Everything but the input that the scores and their files depend on, by name."""
    digests: list[str]
    """Of the files' content."""
    stats: list[list[Any]]
    """Path, size and time of change of each file: while these stay the same, no file is read again to compare."""
    unreadable: list[dict[str, Any]]
    """Lines of the texts, as `index_texts` reports them."""
    partitions: list[Partition]

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.partitions)


class BatchFolder:
    """Reads and writes the folder, in the driver of a batch and in its engines' processes."""

    def __init__(self, path: Path, output: str) -> None:
        """`output`: "parquet" or "jsonl"."""
        self.path, self.output = path, output
        self.errors, self.run, self.report = path / "errors.jsonl", path / "run.trec", path / "report.json"
        self.index = path / "state" / "texts.sqlite"
        self._manifest = path / "manifest.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from driving the same batch; raises BatchError if one does, or if the folder has other files."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(one.name for one in self.path.iterdir() if one.name not in (*_OURS, ".lock"))
        except OSError as error:
            raise BatchError(f"{self.path}: {error.strerror}") from None
        if others and not self._manifest.exists():
            raise BatchError(f"{self.path} holds other files ({others[0]}); name a new folder with --out")
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BatchError(f"another `reranker batch` works in {self.path}") from None
            yield

    def clear(self) -> None:
        """Remove everything that was scored."""
        for path in [self.path / name for name in _OURS]:  # the manifest first: without it the rest counts for nothing
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def open(self, source: Input, settings: dict[str, Any]) -> Manifest:
        """Go on with a batch, or begin it.

        Raises BatchError if the folder is of another input, model or setting, or of another version of this program;
        InputFileError if the input cannot be read.
        """
        settings, stats = {"version": _VERSION} | settings, source.stats()
        if self._manifest.exists():
            kept = orjson.loads(self._manifest.read_bytes())
            changed = [name for name, value in settings.items() if kept.get("settings", {}).get(name) != value]
            if "version" in changed:
                changed = ["version"]
            elif kept["stats"] != stats and kept["digests"] != source.digests():
                changed.insert(0, "input")
            if changed:
                what = ", ".join(changed).replace("_", " ")
                said = "Name another folder with --out, or throw these scores away with --restart"
                raise BatchError(f"{self.path} holds the scores of another {what}. {said}")
            partitions = [Partition(**one) for one in kept["partitions"]]
            manifest = Manifest(**kept | {"stats": stats, "partitions": partitions})
        else:
            self.clear()
            for folder in ("scores", "state/done"):
                (self.path / folder).mkdir(parents=True)
            partitions = pairs.plan(source, settings["partition_rows"])
            unreadable = pairs.index_texts(source.texts, self.index) if source.texts else []
            manifest = Manifest(settings, source.digests(), stats, unreadable, partitions)
            if stats != source.stats():
                raise BatchError("the input was changed while it was read; run this again")
        write_json(self._manifest, manifest)
        return manifest

    def scores(self, partition: int) -> Path:
        return self.path / "scores" / f"{partition:05}.{self.output}"

    def _record(self, partition: int) -> Path:
        return self.path / "state" / "done" / f"{partition:05}.json"

    def record(self, partition: int) -> dict[str, Any] | None:  # Any: JSON
        """What `finish` noted of a partition; None: it is not done."""
        try:
            record: dict[str, Any] = orjson.loads(self._record(partition).read_bytes())
            return record if self.scores(partition).stat().st_size == record["bytes"] else None
        except FileNotFoundError:
            return None

    def finish(self, partition: int, rows: Sequence[Row], key_columns: Sequence[str], record: dict[str, Any]) -> None:
        """Write the scores of a partition, all rows in their order, and then its record: `record`, and more."""
        started_s = time.perf_counter()
        table, errors = [], []
        for one in rows:
            named = {"row": one.number, **dict(zip(key_columns, one.keys, strict=True))}
            result = {"score": one.score, "log_odds": one.log_odds, "truncated": one.truncated}
            table.append(named | result | {"error": one.error})
            if one.error:
                errors.append(named | {"line": one.line, "error": one.error, "message": one.message})
        path = self.scores(partition)
        with replacing(path) as temporary:
            if self.output == "parquet":
                columns = {"row": pa.int64(), **dict.fromkeys(key_columns, pa.string()), "score": pa.float64()}
                columns |= {"log_odds": pa.float64(), "truncated": pa.bool_(), "error": pa.string()}
                pq.write_table(pa.Table.from_pylist(table, schema=pa.schema(columns)), temporary)
            else:
                temporary.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in table))
        record |= {"rows": len(rows), "errors": errors, "bytes": path.stat().st_size}
        record |= {"write_s": time.perf_counter() - started_s, "done_s": time.time()}
        write_json(self._record(partition), record)

    def write_errors(self, manifest: Manifest) -> int:
        """Write all problems to one file; returns how many rows have no score."""
        failed = 0
        with replacing(self.errors) as temporary, temporary.open("wb") as file:
            file.writelines(orjson.dumps(line) + b"\n" for line in manifest.unreadable)
            for partition in manifest.partitions:
                errors = (self.record(partition.number) or {})["errors"]
                file.writelines(orjson.dumps(error) + b"\n" for error in errors)
                failed += len(errors)
        return failed

    def write_run(self, manifest: Manifest) -> None:
        """Write a TREC run of all rows that have a score: queries as they first come, documents best first.

        Rows of a query may be anywhere in the input, so they are sorted on disk. A pair that comes twice is once in
        the run, as trec_eval wants it; in the scores it is twice.
        """
        database = self.path / "state" / "run.sqlite"
        database.unlink(missing_ok=True)
        columns = ["query_id", "document_id", "row", "score"]
        with contextlib.closing(sqlite3.connect(database)) as rows:
            rows.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                "CREATE TABLE pairs (query TEXT, document TEXT, row INTEGER, score REAL)"
            )
            for path in [self.scores(one.number) for one in manifest.partitions]:
                if self.output == "parquet":
                    scored = pq.read_table(path, columns=columns, use_threads=False).to_pylist()
                else:
                    scored = [orjson.loads(line) for line in path.read_bytes().splitlines()]
                rows.executemany("INSERT INTO pairs VALUES (:query_id, :document_id, :row, :score)", scored)
            rows.execute("CREATE INDEX by_query ON pairs (query, document, row)")
            ranked = rows.execute(
                "SELECT query, document, row_number() OVER (PARTITION BY query ORDER BY score DESC, row), score FROM"
                " (SELECT query, document, min(row) AS row, score FROM pairs WHERE score NOT NULL"
                " GROUP BY query, document) ORDER BY min(row) OVER (PARTITION BY query), score DESC, row"
            )
            with replacing(self.run) as temporary, temporary.open("w", encoding="utf-8") as file:
                for query, document, rank, score in ranked:
                    file.write(f"{query} Q0 {document} {rank} {score!r} reranker\n")
        database.unlink()


def write_json(path: Path, value: Any) -> None:  # Any: JSON, or dataclasses of it
    with replacing(path) as temporary:
        temporary.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
