"""An index on disk: its folder with versions, what a version says of itself, its chunks, and a reader of them all.

    INDEX/CURRENT             name of the version that is served; replaced in one step
    INDEX/versions/000001/    a version: never changed once it has this name
    INDEX/building/           a build under way: its finished parts, for the next attempt
    INDEX/lock                held by the process that builds

A build writes a version aside, makes it durable, gives it its name, and only then replaces CURRENT. Whenever it is
interrupted, CURRENT names a whole version.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from reranker.errors import ConfigurationError
from reranker.search.documents import Analyzer, Chunk, ChunkSize, TextFields
from reranker.search.filters import Filter, RowFilter
from reranker.types import BoolArray

FORMAT = 1
INFO, _LINES, _OFFSETS = "index.json", "chunks.jsonl", "chunks.npy"


class EmbeddingInfo(BaseModel):
    """The model that an index's vectors come from; queries must be embedded by the same."""

    model_config = ConfigDict(frozen=True)
    model: str  # a local folder, a hub id, or the name that the endpoint at `url` knows it by
    revision: str | None = None
    url: str | None = None
    """OpenAI-compatible endpoint that embedded the documents. None: the model was loaded by the build."""
    dimensions: int = 0
    factory: str = "Flat"


class IndexInfo(BaseModel):
    """How a version was made, and how much is in it: `index.json`."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    built_at: str = ""
    documents: int = 0
    chunks: int = 0
    left_out: int = 0
    tokenizer: str = "demo"
    chunking: ChunkSize = ChunkSize()
    words: Analyzer = Analyzer()
    fields: TextFields = TextFields()
    embedding: EmbeddingInfo | None = None

    @classmethod
    def read(cls, version: Path) -> Self:
        """Read a version's; raises ConfigurationError if this release cannot read that version."""
        try:
            info = cls.model_validate_json((version / INFO).read_bytes())
        except (OSError, ValidationError):
            raise ConfigurationError(f"{version}: its {INFO} is missing or not one of ours") from None
        if info.format != FORMAT:
            said = f"{version}: of format {info.format}, and this release reads {FORMAT}"
            raise ConfigurationError(f"{said}; build the index again")
        return info


class IndexFolder:
    """One index, over time; the folder need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.building = path / "building"
        self._current, self._versions = path / "CURRENT", path / "versions"

    def served(self) -> Path | None:
        """The folder of the version that is served."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            name = self._current.read_text(encoding="utf-8").strip()
            if name and (self._versions / name).is_dir():
                return self._versions / name
        return None

    def current(self) -> Path:
        """The same; raises ConfigurationError if there is none."""
        version = self.served()
        if version is None:
            said = f"{self.path}: no index there; make one: reranker index build FILES --out {self.path}"
            raise ConfigurationError(said)
        return version

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to build here, until the process ends; raises ConfigurationError if another process does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / "lock").open("a")
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be written to ({error.strerror})") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigurationError(f"{self.path}: another build of this index is under way") from None
            yield

    def publish(self, aside: Path) -> Path:
        """Let a version be served from now on; gives its new folder. Only while `locked`.

        The one before is kept: a reader may be opening it.
        """
        before = self.served()
        version = self._versions / f"{int(before.name if before else 0) + 1:06d}"
        self._versions.mkdir(exist_ok=True)
        shutil.rmtree(version, ignore_errors=True)  # of a build that was killed just before it was served
        for path in (*aside.rglob("*"), aside):
            sync(path)
        os.rename(aside, version)
        sync(self._versions)
        with replacing(self._current) as file:
            file.write_text(version.name)
        for other in self._versions.iterdir():
            if other not in (before, version):
                shutil.rmtree(other, ignore_errors=True)
        return version


class ChunkFile:
    """The chunks of a version, a JSON line each, mapped. Safe to use from several threads.

    Raises ConfigurationError if it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._offsets = np.load(folder / _OFFSETS)
            with (folder / _LINES).open("rb") as file:
                self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{folder}: its chunks cannot be read ({error})") from None
        if len(self._offsets) < 1 or self._offsets[-1] != len(self._lines):
            raise ConfigurationError(f"{folder}: its chunks are not as many bytes as they should be")

    @staticmethod
    def write(folder: Path, lines: Iterable[bytes]) -> None:
        offsets = [0]
        with (folder / _LINES).open("wb") as file:
            for line in lines:
                file.write(line)
                offsets.append(file.tell())
        np.save(folder / _OFFSETS, np.asarray(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Chunk:
        return from_line(self.line(row))

    def __iter__(self) -> Iterator[Chunk]:
        return (self[row] for row in range(len(self)))

    def line(self, row: int) -> bytes:
        return self._lines[self._offsets[row] : self._offsets[row + 1]]


def to_line(chunk: Chunk) -> bytes:
    row: dict[str, Any] = {"id": chunk.id, "chunk": chunk.number, "text": chunk.text}
    more = {"start": chunk.start, "title": chunk.title, "metadata": chunk.metadata}
    row |= {name: value for name, value in more.items() if value}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


def from_line(line: bytes) -> Chunk:
    row = orjson.loads(line)
    return Chunk(number=row.pop("chunk"), **row)


class IndexReader:
    """One version of an index, open; raises ConfigurationError if it is damaged or of another release."""

    def __init__(self, version: Path) -> None:
        self.folder = version
        self.info = IndexInfo.read(version)
        self.chunks = ChunkFile(version)
        self._filter = RowFilter(len(self.chunks), lambda: (chunk.metadata for chunk in self.chunks))

    def rows(self, where: Filter | None) -> BoolArray | None:
        """Say of each chunk whether it passes a filter: shape (chunks,). None: there is no filter."""
        return None if where is None else self._filter.rows(where)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, and move that file to `path`, durably, when the block ends well.

    Two that write the same file do not disturb each other: the later one stays.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)  # the new name, too
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file or a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
