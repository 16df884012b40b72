"""The chunks of an index on disk: a JSON line each, and where each line begins. Read where they lie."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from reranker.errors import ConfigurationError
from reranker.search.base import Chunk, Metadata

LINES, OFFSETS = "chunks.jsonl", "chunks.npy"


def to_line(chunk: Chunk) -> bytes:
    """Write one chunk."""
    row: dict[str, Any] = {"id": chunk.id, "chunk": chunk.number, "text": chunk.text}
    if chunk.start:
        row["start"] = chunk.start
    if chunk.title:
        row["title"] = chunk.title
    if chunk.metadata:
        row["metadata"] = chunk.metadata
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


def from_line(line: bytes | memoryview) -> Chunk:
    """Read one chunk."""
    row = orjson.loads(line)
    return Chunk(
        row["id"], row["chunk"], row["text"], row.get("start", 0), row.get("title", ""), row.get("metadata", {})
    )


def write(folder: Path, lines: Iterable[bytes]) -> int:
    """Write the chunks of an index; returns how many there are."""
    offsets = [0]
    with (folder / LINES).open("wb") as file:
        for line in lines:
            file.write(line)
            offsets.append(offsets[-1] + len(line))
    np.save(folder / OFFSETS, np.asarray(offsets, dtype=np.int64))
    return len(offsets) - 1


class ChunkFile:
    """Reads chunks by their position. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Map the file.

        Raises:
            ConfigurationError: It is damaged.
        """
        try:
            self._offsets = np.load(folder / OFFSETS)
            with (folder / LINES).open("rb") as file:
                self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{folder}: its chunks cannot be read ({error})") from None
        if len(self._offsets) < 1 or self._offsets[-1] != len(self._lines):
            raise ConfigurationError(f"{folder}: its chunks are not as many bytes as they should be")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, place: int) -> Chunk:
        return from_line(self.line(place))

    def line(self, place: int) -> bytes:
        """One chunk as it is on disk."""
        return self._lines[self._offsets[place] : self._offsets[place + 1]]

    def __iter__(self) -> Iterator[Chunk]:
        for place in range(len(self)):
            yield self[place]

    def metadata(self) -> Iterator[Metadata]:
        """That of every chunk, in order."""
        for place in range(len(self)):
            yield orjson.loads(self.line(place)).get("metadata", {})

    def close(self) -> None:
        """Unmap the file."""
        self._lines.close()
