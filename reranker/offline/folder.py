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
import dataclasses
import fcntl
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from reranker.errors import BatchError
from reranker.offline import Partition, RowScore, pairs
from reranker.offline.pairs import Format, Input
from reranker.search.index import replacing as _replacing

OutputFormat: TypeAlias = Literal["parquet", "jsonl"]
Settings: TypeAlias = dict[str, Any]
"""Everything but the input that the scores and their files depend on, by name. (Any: JSON.)"""
_VERSION = 3
_LOCK = ".lock"
_OURS = ("manifest.json", "scores", "errors.jsonl", "run.trec", "report.json", "state")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a batch scores, and how it is cut."""

    version: int
    format: Format
    digests: tuple[str, ...]
    """Of the files' content."""
    stats: tuple[tuple[str, int, int], ...]
    """Path, size and time of change of each file: while these stay the same, no file is read again to compare."""
    settings: Settings
    unreadable: tuple[dict[str, Any], ...]
    """Lines of the texts, as `index_texts` reports them."""
    partitions: tuple[Partition, ...]

    @property
    def rows(self) -> int:
        """Of all partitions."""
        return sum(one.rows for one in self.partitions)

    def is_unchanged(self, source: Input) -> bool:
        """Whether path, size and time of change of all files are the same."""
        return self.format == source.format and self.stats == _stats(source)


def _stats(source: Input) -> tuple[tuple[str, int, int], ...]:
    named = [(str(path.resolve()), path.stat()) for path in source.all_files]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in named)


def _digests(source: Input) -> tuple[str, ...]:
    return tuple(map(pairs.content_digest, source.all_files))


class BatchFolder:
    """Reads and writes the folder, in the driver of a batch and in its engines' processes."""

    def __init__(self, path: Path, output: OutputFormat) -> None:
        """Name the files; touches none."""
        self.path, self.output = path, output
        self.errors, self.run, self.report = path / "errors.jsonl", path / "run.trec", path / "report.json"
        self.index = path / "state" / "texts.sqlite"
        self._manifest = path / "manifest.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from driving the same batch; raises BatchError if one does, or if the folder has other files."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(one.name for one in self.path.iterdir() if one.name not in (*_OURS, _LOCK))
        except OSError as error:
            raise BatchError(f"{self.path}: {error.strerror}") from None
        if others and not self._manifest.exists():
            raise BatchError(f"{self.path} holds other files ({others[0]}); name a new folder with --out")
        with (self.path / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BatchError(f"another `reranker batch` works in {self.path}") from None
            yield

    def clear(self) -> None:
        """Remove everything that was scored."""
        self._manifest.unlink(missing_ok=True)  # first: without it the rest counts for nothing
        for path in [self.path / name for name in _OURS]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def open(self, source: Input, settings: Settings) -> Manifest:
        """Go on with a batch, or begin it.

        Raises BatchError if the folder is of another input, model or setting, or of another version of this program;
        InputFileError if the input cannot be read.
        """
        try:
            content = self._manifest.read_bytes()
        except FileNotFoundError:
            return self._begin(source, settings)
        if orjson.loads(content).get("version") != _VERSION:
            said = f"{self._manifest} is of another version; name another folder with --out, or use --restart"
            raise BatchError(said)
        manifest = TypeAdapter(Manifest).validate_json(content)
        changed = [name.replace("_", " ") for name, value in settings.items() if manifest.settings.get(name) != value]
        if not manifest.is_unchanged(source):
            if (manifest.format, manifest.digests) != (source.format, _digests(source)):
                changed.insert(0, "input")
            manifest = dataclasses.replace(manifest, stats=_stats(source))
        if changed:
            raise BatchError(
                f"{self.path} holds the scores of another {', '.join(changed)}. Name another folder with --out, or "
                "throw these scores away with --restart"
            )
        write_json(self._manifest, manifest)
        return manifest

    def _begin(self, source: Input, settings: Settings) -> Manifest:
        self.clear()
        for folder in ("scores", "state/done"):
            (self.path / folder).mkdir(parents=True)
        stats = _stats(source)
        partitions = pairs.plan(source, settings["partition_rows"])
        unreadable = pairs.index_texts(source.texts, self.index) if source.texts else []
        manifest = Manifest(
            _VERSION, source.format, _digests(source), stats, settings, tuple(unreadable), tuple(partitions)
        )
        if not manifest.is_unchanged(source):
            raise BatchError("the input was changed while it was read; run this again")
        write_json(self._manifest, manifest)
        return manifest

    def scores(self, partition: int) -> Path:
        """The file of a partition's scores."""
        return self.path / "scores" / f"{partition:05}.{self.output}"

    def _record(self, partition: int) -> Path:
        return self.path / "state" / "done" / f"{partition:05}.json"

    def record(self, partition: int) -> dict[str, Any] | None:  # Any: JSON
        """The record of a partition; None: it is not done."""
        try:
            record: dict[str, Any] = orjson.loads(self._record(partition).read_bytes())
            return record if self.scores(partition).stat().st_size == record["bytes"] else None
        except FileNotFoundError:
            return None

    def finish(
        self, partition: int, rows: Sequence[RowScore], key_columns: Sequence[str], record: dict[str, Any]
    ) -> None:
        """Write the scores of a partition, all rows in their order, and then its record with what else is in `record`.

        `key_columns` names the rows' keys.
        """
        started_s = time.perf_counter()
        write_scores(self.scores(partition), rows, key_columns)
        errors = [
            {"row": one.number, **dict(zip(key_columns, one.keys, strict=True)), "line": one.problem.line}
            | {"error": one.problem.code, "message": one.problem.message}
            for one in rows
            if one.problem
        ]
        record |= {"rows": len(rows), "errors": errors, "bytes": self.scores(partition).stat().st_size}
        record |= {"write_s": time.perf_counter() - started_s, "done_s": time.time()}
        write_json(self._record(partition), record)

    def write_errors(self, manifest: Manifest) -> int:
        """Write all problems to one file; returns how many rows have no score."""
        failed = 0
        with _replacing(self.errors) as temporary, temporary.open("wb") as file:
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
        with contextlib.closing(sqlite3.connect(database)) as rows:
            rows.execute("PRAGMA journal_mode = OFF")
            rows.execute("PRAGMA synchronous = OFF")
            rows.execute("CREATE TABLE pairs (query TEXT, document TEXT, row INTEGER, score REAL)")
            for partition in manifest.partitions:
                rows.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", _read_scores(self.scores(partition.number)))
            rows.execute("CREATE INDEX by_query ON pairs (query, document, row)")
            ranked = rows.execute(
                "SELECT query, document, row_number() OVER (PARTITION BY query ORDER BY score DESC, row), score FROM"
                " (SELECT query, document, min(row) AS row, score FROM pairs GROUP BY query, document)"
                " ORDER BY min(row) OVER (PARTITION BY query), score DESC, row"
            )
            with _replacing(self.run) as temporary, temporary.open("w", encoding="utf-8") as file:
                for query, document, rank, score in ranked:
                    file.write(f"{query} Q0 {document} {rank} {score!r} reranker\n")
        database.unlink()


def write_scores(path: Path, rows: Sequence[RowScore], key_columns: Sequence[str]) -> None:
    """Write rows to a file named .parquet or .jsonl; see `BatchFolder.finish`."""
    columns = [("row", pa.int64()), *((name, pa.string()) for name in key_columns), ("score", pa.float64())]
    columns += [("log_odds", pa.float64()), ("truncated", pa.bool_()), ("error", pa.string())]
    table = [
        (one.number, *one.keys, one.score, one.log_odds, one.truncated, one.problem and one.problem.code)
        for one in rows
    ]
    names = [name for name, _ in columns]
    values = [dict(zip(names, row, strict=True)) for row in table]
    with _replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(values, schema=pa.schema(columns)), temporary)
        else:
            temporary.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in values))


def _read_scores(path: Path) -> Iterator[tuple[str, str, int, float]]:
    columns = ("query_id", "document_id", "row", "score")
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=list(columns), use_threads=False).to_pylist()
    else:
        table = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return (tuple(row[name] for name in columns) for row in table if row["score"] is not None)


def write_json(path: Path, value: Any) -> None:  # Any: JSON, or dataclasses of it
    """Write a value as JSON, whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
