"""What a build has done so far, on disk: its plan, and finished parts of its documents. A killed build goes on here.

building/plan.json      what is built of what; another plan starts over
building/000007.jsonl   the chunks of a part; 000007.npy: their vectors, where there are any
building/000007.json    written last: the part is complete, and where reading goes on
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from reranker.search.base import Chunk
from reranker.search.chunkfile import from_line, to_line
from reranker.search.folder import sync, write_whole
from reranker.search.sources import Problem
from reranker.types import FloatArray


@dataclass(frozen=True, slots=True)
class Position:
    """Where reading goes on."""

    source: int = 0
    """Which file."""
    record: int = 0
    """How many documents and problems of it are done."""


class Parts:
    """The parts of one build."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Take up what is there for this plan, or start over.

        Args:
            folder: Where the parts are.
            plan: All that the result depends on. (Any: JSON.)
        """
        self._folder = folder
        self.position = Position()
        self.count = 0
        self.problems: list[Problem] = []
        self.documents: set[str] = set()
        self.resumed = False
        written = orjson.dumps(plan)
        if (folder / "plan.json").is_file() and (folder / "plan.json").read_bytes() == written:
            self._take_up()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole(folder / "plan.json", written)

    def _take_up(self) -> None:
        while (done := self._path(self.count, "json")).is_file():
            said = orjson.loads(done.read_bytes())
            self.position = Position(**said["position"])
            self.problems += [Problem(**one) for one in said["problems"]]
            self.count += 1
        self.documents = {chunk.id for chunk in self.chunks()}
        self.resumed = self.count > 0

    def add(
        self, chunks: Sequence[Chunk], vectors: FloatArray | None, problems: Sequence[Problem], position: Position
    ) -> None:
        """Keep a part; from then on it is done, whatever happens."""
        lines = self._path(self.count, "jsonl")
        lines.write_bytes(b"".join(map(to_line, chunks)))
        sync(lines)
        if vectors is not None:
            np.save(self._path(self.count, "npy"), vectors)
            sync(self._path(self.count, "npy"))
        said = {"position": asdict(position), "problems": [asdict(one) for one in problems]}
        write_whole(self._path(self.count, "json"), orjson.dumps(said))
        self.problems += problems
        self.documents |= {chunk.id for chunk in chunks}
        self.position = position
        self.count += 1

    def lines(self) -> Iterator[bytes]:
        """All chunks so far, as they are on disk."""
        for part in range(self.count):
            with self._path(part, "jsonl").open("rb") as file:
                yield from file

    def chunks(self) -> Iterator[Chunk]:
        """All chunks so far."""
        return map(from_line, self.lines())

    def vectors(self) -> list[FloatArray]:
        """Those of each part."""
        return [np.load(self._path(part, "npy")) for part in range(self.count)]

    def _path(self, part: int, suffix: str) -> Path:
        return self._folder / f"{part:06d}.{suffix}"
