"""The folder of a batch: what it is of, how far it is, what came out, and nobody else in it.

    manifest.json         what is scored, with what; another input, model or setting is refused
    scores/00000.parquet  one row for each of the input's, partition by partition
    errors.jsonl          rows without a score, and why; there when the batch is complete, as are
    run.trec, report.json
    state/                partitions, what is known of each that is done, the index of texts

A partition is done when its record in state/ is there, and the scores with the size that the record names. Every file
appears whole or not at all, and is on the disk before anything says that it is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.errors import RerankerError
from reranker.offline import Partition, RowScore, pairs
from reranker.offline.formats import UnreadableLine
from reranker.offline.pairs import Input

OutputFormat: TypeAlias = Literal["parquet", "jsonl"]
Settings: TypeAlias = dict[str, Any]
"""Everything but the input that the scores and their files depend on, by name. (Any: JSON.)"""
_VERSION = 2
_OURS = ("manifest.json", "scores", "errors.jsonl", "run.trec", "report.json", "state", ".lock")


class BatchError(RerankerError):
    """A batch cannot go on; the message says what to do."""

    code = "batch_error"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a batch is of, and how it is cut."""

    form: str
    digests: tuple[str, ...]
    """Of the files' content."""
    stats: tuple[tuple[str, int, int], ...]
    """Path, size and time of change of each: as long as these stay, nothing is read again to compare."""
    settings: Settings
    partitions: tuple[Partition, ...]
    unreadable: tuple[UnreadableLine, ...]

    @property
    def rows(self) -> int:
        """Of all partitions."""
        return sum(one.rows for one in self.partitions)

    def is_of(self, found: Input) -> bool:
        """Whether nothing says that the files have changed."""
        return self.form == found.form and self.stats == _stats(found)

    def has_content_of(self, found: Input) -> bool:
        """Whether files that were moved or written again have the content they had. Reads them all."""
        return self.form == found.form and self.digests == tuple(map(pairs.content_digest, found.all_files))


def _stats(found: Input) -> tuple[tuple[str, int, int], ...]:
    named = [(str(path.resolve()), path.stat()) for path in found.all_files]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in named)


class BatchFolder:
    """Opened by the process that drives a batch, and by every one that scores a part of it."""

    def __init__(self, path: Path, output: OutputFormat) -> None:
        """Name the files; touches none."""
        self.path, self.output = path, output
        self.errors, self.run, self.report = path / "errors.jsonl", path / "run.trec", path / "report.json"
        self.index = path / "state" / "texts.sqlite"
        self._manifest = path / "manifest.json"
        self._partitions = path / "state" / "partitions.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from driving the same batch.

        Raises:
            BatchError: Somebody does already, or there are other files in the folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(one.name for one in self.path.iterdir() if one.name not in _OURS)
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
        """Forget everything that was scored."""
        self._manifest.unlink(missing_ok=True)  # first: without it the rest counts for nothing
        for name in _OURS:
            if name != ".lock" and (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
            elif name != ".lock":
                (self.path / name).unlink(missing_ok=True)

    def open(self, found: Input, settings: Settings) -> Manifest:
        """Go on with a batch, or begin it.

        Raises:
            BatchError: What is there is of another input, model or setting, or of another version of this program.
            InputFileError: The input cannot be read.
        """
        manifest = self._read_manifest()
        if manifest is None:
            self.clear()
            return self._begin(found, settings)
        changed = [name.replace("_", " ") for name, value in settings.items() if manifest.settings.get(name) != value]
        if not manifest.is_of(found) and not manifest.has_content_of(found):
            changed.insert(0, "input")
        if changed:
            raise BatchError(
                f"{self.path} holds the scores of another {', '.join(changed)}. Name another folder with --out, or "
                "throw these scores away with --restart"
            )
        manifest = dataclasses.replace(manifest, stats=_stats(found))
        self._write_manifest(manifest)
        return manifest

    def _begin(self, found: Input, settings: Settings) -> Manifest:
        for folder in ("scores", "state/done"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        stats = _stats(found)  # before it is read: a change meanwhile is noticed
        plan = pairs.plan(found, settings["partition_rows"], self.index)
        manifest = Manifest(found.form, plan.digests, stats, settings, plan.partitions, plan.unreadable)
        partitions = [dataclasses.astuple(one) for one in plan.partitions]
        unreadable = [dataclasses.astuple(one) for one in plan.unreadable]
        write_json(self._partitions, {"partitions": partitions, "unreadable": unreadable})
        self._write_manifest(manifest)
        return manifest

    def _read_manifest(self) -> Manifest | None:
        value = _read_json(self._manifest)
        if value is None:
            return None
        if value.get("version") != _VERSION:
            said = f"{self._manifest} is of another version; name another folder with --out, or use --restart"
            raise BatchError(said)
        cut = _read_json(self._partitions)
        return Manifest(
            value["form"],
            tuple(value["digests"]),
            tuple((path, size, changed) for path, size, changed in value["stats"]),
            value["settings"],
            tuple(Partition(*one) for one in cut["partitions"]),
            tuple(UnreadableLine(*one) for one in cut["unreadable"]),
        )

    def _write_manifest(self, manifest: Manifest) -> None:
        value = {name: getattr(manifest, name) for name in ("form", "digests", "stats", "settings", "rows")}
        write_json(self._manifest, {"version": _VERSION, **value, "partitions": len(manifest.partitions)})

    def scores(self, partition: int) -> Path:
        """Where the scores of a partition are."""
        return self.path / "scores" / f"{partition:05}.{self.output}"

    def _record(self, partition: int) -> Path:
        return self.path / "state" / "done" / f"{partition:05}.json"

    def record(self, partition: int) -> dict[str, Any] | None:  # Any: JSON
        """What was noted of a partition; None: it is not done."""
        record: dict[str, Any] | None = _read_json(self._record(partition))
        try:
            return record if record and self.scores(partition).stat().st_size == record["bytes"] else None
        except FileNotFoundError:
            return None

    def finish(
        self, partition: int, rows: Sequence[RowScore], key_columns: Sequence[str], record: dict[str, Any]
    ) -> None:
        """Write the scores of a partition, and then note that they are there.

        Args:
            partition: Its number.
            rows: All of its rows, in their order.
            key_columns: Names of the rows' keys.
            record: What else to note. (Any: JSON.)
        """
        started_s = time.perf_counter()
        write_scores(self.scores(partition), rows, key_columns)
        errors = [
            {"row": one.number, **dict(zip(key_columns, one.keys, strict=True)), "line": problem.line}
            | {"error": problem.code, "message": problem.message}
            for one in rows
            if (problem := one.problem) is not None
        ]
        record |= {
            "rows": len(rows),
            "errors": errors,
            "write_s": time.perf_counter() - started_s,
            "done_s": time.time(),
        }
        write_json(self._record(partition), record | {"bytes": self.scores(partition).stat().st_size})

    def attempt(self, partition: int) -> int:
        """Note that a partition is begun; returns how often it was, in this run."""
        path = self.path / "state" / "begun" / f"{partition:05}"
        with path.open("ab") as file:
            file.write(b".")
        return path.stat().st_size

    def forget_attempts(self) -> None:
        """Begin to count anew."""
        begun = self.path / "state" / "begun"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)

    def write_errors(self, manifest: Manifest) -> int:
        """Write all problems to one file; returns how many rows have no score."""
        failed = 0
        with _replacing(self.errors) as temporary, temporary.open("wb") as file:
            for unreadable in manifest.unreadable:
                line = {"file": unreadable.path, "line": unreadable.line}
                file.write(orjson.dumps(line | {"error": "unreadable_line", "message": unreadable.problem}) + b"\n")
            for partition in manifest.partitions:
                for problem in (self.record(partition.number) or {})["errors"]:
                    file.write(orjson.dumps(problem) + b"\n")
                    failed += 1
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
            rows.execute("CREATE TABLE queries AS SELECT query, min(row) AS first FROM pairs GROUP BY query")
            with _replacing(self.run) as temporary, temporary.open("w", encoding="utf-8") as file:
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


def write_scores(path: Path, rows: Sequence[RowScore], key_columns: Sequence[str]) -> None:
    """Write rows to a file named .parquet or .jsonl; see `BatchFolder.finish`."""
    columns: dict[str, list[Any]] = {"row": [one.number for one in rows]}
    columns |= {name: [one.keys[i] for one in rows] for i, name in enumerate(key_columns)}
    columns["score"] = [one.score for one in rows]
    columns["log_odds"] = [one.log_odds for one in rows]
    columns["truncated"] = [one.truncated for one in rows]
    columns["error"] = [one.problem.code if one.problem else None for one in rows]
    keys = [(name, pa.string()) for name in key_columns]
    scores = [("score", pa.float64()), ("log_odds", pa.float64()), ("truncated", pa.bool_()), ("error", pa.string())]
    table = pa.table(columns, schema=pa.schema([("row", pa.int64()), *keys, *scores]))
    with _replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            temporary.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist()))


def _read_scores(path: Path) -> Iterator[tuple[str, str, int, float]]:
    columns = ("query_id", "document_id", "row", "score")
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=list(columns), use_threads=False).to_pylist()
    else:
        table = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return (tuple(row[name] for name in columns) for row in table if row["score"] is not None)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, and move what is there in the place of `path` when the block ends well.

    Two that write the same file do not disturb each other: the later one stays.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)  # the new name, too
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:  # Any: JSON
    """Write a value as JSON, whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _read_json(path: Path) -> Any:  # Any: JSON
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
