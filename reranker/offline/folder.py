"""The folder of a batch: what it is of, how far it is, and nobody else in it.

    manifest.json         what is scored, with what; another input, model or setting is refused
    scores/00000.parquet  one row for each of the input's, partition by partition
    errors.jsonl          rows without a score, and why; there when the batch is complete, as are
    run.trec, report.json
    state/                partitions, what is known of each that is done, the index of texts

A partition is done when its record in state/ is there, and the scores with the size that the record names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import orjson

from reranker.errors import RerankerError
from reranker.offline import inputs
from reranker.offline.files import read_json, write_json
from reranker.offline.inputs import Input
from reranker.offline.rows import Partition
from reranker.offline.texts import Unreadable

OutputFormat: TypeAlias = Literal["parquet", "jsonl"]
_VERSION = 1
_OURS = ("manifest.json", "scores", "errors.jsonl", "run.trec", "report.json", "state", ".lock")


class BatchError(RerankerError):
    """A batch cannot go on; the message says what to do."""

    code = "batch_error"


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything but the input that the scores and their files depend on."""

    model: str
    """Digest of what the engines hold: `reranker.model.checkpoint.model_identity`."""
    prompts: str
    """`PromptRenderer.fingerprint`."""
    adapter: str
    """Of the model; empty: none."""
    instruction: str
    long_documents: dict[str, Any]
    """Any: JSON."""
    columns: dict[str, str]
    """Of the input, where it has columns."""
    output: OutputFormat
    partition_rows: int


class BatchFolder:
    """Opened by the process that drives a batch, and by every one that scores a part of it."""

    def __init__(self, path: Path, output: OutputFormat) -> None:
        """Name the files; touches none."""
        self.path, self.output = path, output
        self.errors, self.run, self.report = path / "errors.jsonl", path / "run.trec", path / "report.json"
        self.index = path / "state" / "texts.sqlite"
        self._manifest = path / "manifest.json"
        self._partitions = path / "state" / "partitions.json"

    def scores(self, partition: int) -> Path:
        """Where the scores of a partition are."""
        return self.path / "scores" / f"{partition:05}.{self.output}"

    def _record(self, partition: int) -> Path:
        return self.path / "state" / "done" / f"{partition:05}.json"

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

    def finish(self, partition: int, record: dict[str, Any]) -> None:  # Any: JSON
        """Note that the scores of a partition are there."""
        write_json(self._record(partition), record | {"bytes": self.scores(partition).stat().st_size})

    def record(self, partition: int) -> dict[str, Any] | None:  # Any: JSON
        """What was noted of a partition; None: it is not done."""
        record: dict[str, Any] | None = read_json(self._record(partition))
        try:
            return record if record and self.scores(partition).stat().st_size == record["bytes"] else None
        except FileNotFoundError:
            return None

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

    def open(self, found: Input, terms: Terms) -> Manifest:
        """Go on with a batch, or begin it.

        Raises:
            BatchError: What is there is of another input, model or setting.
            InputFileError: The input cannot be read.
        """
        manifest = Manifest.read(self._manifest, self._partitions)
        if manifest is None:
            self.clear()
            return self._begin(found, terms)
        changed = manifest.differences(terms)
        if not manifest.is_of(found) and not self._is_as_it_was(found, terms, manifest):
            changed.insert(0, "input")
        if changed:
            raise BatchError(
                f"{self.path} holds the scores of another {', '.join(changed)}. Name another folder with --out, or "
                "throw these scores away with --restart"
            )
        manifest = dataclasses.replace(manifest, stats=_stats(found))
        self._write(manifest)
        return manifest

    def _is_as_it_was(self, found: Input, terms: Terms, manifest: Manifest) -> bool:
        """Whether files that were moved or written again have the content they had."""
        beside = self.index.with_name("compared.sqlite")
        again = inputs.plan(found, terms.partition_rows, beside)
        beside.unlink(missing_ok=True)
        return (found.form, again.digests) == (manifest.form, manifest.digests)

    def _begin(self, found: Input, terms: Terms) -> Manifest:
        for folder in ("scores", "state/done"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        stats = _stats(found)  # before it is read: a change meanwhile is noticed
        planned = inputs.plan(found, terms.partition_rows, self.index)
        manifest = Manifest(
            found.form, planned.digests, stats, dataclasses.asdict(terms), planned.partitions, planned.unreadable
        )
        rows = [dataclasses.astuple(one) for one in planned.partitions]
        unreadable = [dataclasses.astuple(one) for one in planned.unreadable]
        write_json(self._partitions, {"partitions": rows, "unreadable": unreadable})
        self._write(manifest)
        return manifest

    def _write(self, manifest: Manifest) -> None:
        write_json(self._manifest, manifest.as_json())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a batch is of, and how it is cut."""

    form: str
    digests: tuple[str, ...]
    """Of the files' content."""
    stats: tuple[tuple[str, int, int], ...]
    """Path, size and time of change of each: as long as these stay, nothing is read again to compare."""
    terms: dict[str, Any]
    """`Terms`. (Any: JSON.)"""
    partitions: tuple[Partition, ...]
    unreadable: tuple[Unreadable, ...]

    @classmethod
    def read(cls, manifest: Path, partitions: Path) -> Self | None:
        """Read both files; None: there is no batch.

        Raises:
            BatchError: It is of another version of this program.
        """
        value = read_json(manifest)
        if value is None:
            return None
        if value.get("version") != _VERSION:
            raise BatchError(f"{manifest} is of another version; name another folder with --out, or use --restart")
        cut = read_json(partitions)
        return cls(
            value["form"],
            tuple(value["digests"]),
            tuple((path, size, changed) for path, size, changed in value["stats"]),
            value["terms"],
            tuple(Partition(*one) for one in cut["partitions"]),
            tuple(Unreadable(*one) for one in cut["unreadable"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Give the content of the manifest's file, which leaves the partitions to the other one. (Any: JSON.)."""
        named = {"form": self.form, "digests": self.digests, "stats": self.stats, "terms": self.terms}
        return {"version": _VERSION, **named, "rows": self.rows, "partitions": len(self.partitions)}

    @property
    def rows(self) -> int:
        """Of all partitions."""
        return sum(one.rows for one in self.partitions)

    def is_of(self, found: Input) -> bool:
        """Whether nothing says that the files have changed."""
        return self.form == found.form and self.stats == _stats(found)

    def differences(self, terms: Terms) -> list[str]:
        """Names of what is not as it was."""
        now = orjson.loads(orjson.dumps(dataclasses.asdict(terms)))
        return [name.replace("_", " ") for name, value in now.items() if self.terms.get(name) != value]


def _stats(found: Input) -> tuple[tuple[str, int, int], ...]:
    named = [(str(path.resolve()), path.stat()) for path in found.all_files]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in named)
