"""Build an index from files, or add files to one: read, cut, embed, in parts, then publish a version of it all.

Finished parts are kept on disk, so that a build that was killed goes on where it was:

    building/plan.json      what is built from what; another plan starts over
    building/000007.jsonl   the chunks of a part; 000007.npy: their vectors, where there are any
    building/000007.json    written last: the part is complete, and where reading goes on
"""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson

from reranker.errors import ConfigurationError
from reranker.model.checkpoint import find_folder
from reranker.search.documents import (
    Analyzer,
    Chunk,
    Chunker,
    Document,
    Ideographs,
    Reject,
    Source,
    ideographs_of,
    read_documents,
)
from reranker.search.first_stages import VECTORS, Bm25, Dense
from reranker.search.index import ChunkFile, IndexFolder, IndexInfo, from_line, sync, to_line, write_whole
from reranker.types import FloatArray

LEFT_OUT = "left_out.jsonl"
_PART_DOCUMENTS, _PART_BYTES = 1_000, 2_000_000
_PART_DOCUMENTS_EMBEDDED, _PART_BYTES_EMBEDDED = 64, 100_000  # a kill loses a minute's embedding at most

Embed: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Embeds documents: shape (texts, dimensions), of length 1 each."""
_Position: TypeAlias = tuple[int, int]
"""Where reading goes on: number of the file, and how many of its documents and rejects are done."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished build."""

    version: Path
    info: IndexInfo
    rejects: tuple[Reject, ...]
    """Records that this build left out."""
    resumed: bool
    """Whether it finished a build that was interrupted."""


class Build:
    """One build of one index. If it is interrupted, the served index stays whole, and the next build goes on."""

    def __init__(
        self,
        folder: IndexFolder,
        sources: Sequence[Source],
        info: IndexInfo,
        *,
        add: bool = False,
        ideographs: Ideographs | None = None,
        embed: Embed | None = None,
    ) -> None:
        """Prepare it. The folder must be `locked` from before this until `run` is done.

        Args:
            folder: The index.
            sources: The files to read.
            info: The settings; the counts are filled in.
            add: Keep what is in the index; a document with the same id replaces the old one.
            ideographs: How Chinese characters are split. None: chosen by the documents.
            embed: Of the model that `info.embedding` names; given if that is.
        """
        self._folder, self._sources, self._info = folder, sources, info
        self._ideographs, self._embed = ideographs, embed
        self._base = folder.current() if add else None
        self._chunker = Chunker(find_folder(info.tokenizer), info.chunking)
        self._name = folder.next_name()
        plan = {
            "name": self._name,
            "base": self._base and self._base.name,
            "info": info.model_dump(mode="json"),
            "ideographs": ideographs,
            "sources": [[str(one.path.resolve()), one.name, one.size_bytes, one.changed_ns] for one in sources],
        }
        self._parts = _Parts(folder.building, plan)

    @property
    def done_bytes(self) -> int:
        """Size of the sources that are done."""
        return sum(one.size_bytes for one in self._sources[: self._parts.position[0]])

    def run(self, advance: Callable[[int], object] = lambda done_bytes: None) -> BuildResult:
        """Do what is left, and publish the result.

        Args:
            advance: Told, as parts are done, how many bytes of the sources are, approximately.

        Raises:
            ConfigurationError: There is not one document to index.
        """
        embedded = self._embed is not None
        most_documents = _PART_DOCUMENTS_EMBEDDED if embedded else _PART_DOCUMENTS
        most_bytes = _PART_BYTES_EMBEDDED if embedded else _PART_BYTES
        part: list[tuple[Source, Document | Reject]] = []
        part_bytes = source_bytes = 0
        for place, number, record in self._records():
            part.append((self._sources[place], record))
            size_bytes = len(record.text.encode()) if isinstance(record, Document) else 0
            part_bytes += size_bytes
            source_bytes = size_bytes + (source_bytes if number > 1 else 0)
            if len(part) >= most_documents or part_bytes >= most_bytes:
                self._add(part, (place, number))
                advance(self.done_bytes + source_bytes)
                part, part_bytes = [], 0
        self._add(part, (len(self._sources), 0))
        advance(self.done_bytes)
        if not self._parts.documents:
            shutil.rmtree(self._folder.building)
            first = f", the first: {self._parts.rejects[0]}" if self._parts.rejects else ""
            raise ConfigurationError(f"not one document to index; {len(self._parts.rejects)} problems{first}")
        return self._publish()

    def _records(self) -> Iterator[tuple[int, int, Document | Reject]]:
        """Yield what is left to read: number of its file, its own number there from 1, and the record."""
        first, done = self._parts.position
        for place in range(first, len(self._sources)):
            records = enumerate(read_documents(self._sources[place], self._info.fields), 1)
            for number, record in itertools.islice(records, done if place == first else 0, None):
                yield place, number, record

    def _add(self, part: Sequence[tuple[Source, Document | Reject]], position: _Position) -> None:
        documents: dict[str, Document] = {}
        rejects: list[Reject] = []
        for source, record in part:
            if isinstance(record, Reject):
                rejects.append(record)
            elif record.id in self._parts.documents or record.id in documents:
                said = f"has the id {record.id!r} a second time; the first is kept"
                rejects.append(Reject(str(source.path), record.line, said))
            else:
                documents[record.id] = record
        chunks = self._chunker.chunks(list(documents.values()))
        vectors = self._embed([chunk.ranked_text for chunk in chunks]) if self._embed and chunks else None
        self._parts.add(chunks, vectors, rejects, position)

    def _publish(self) -> BuildResult:
        """Write the version aside, and let it be served."""
        aside = self._folder.building / "version"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        old = ChunkFile(self._base) if self._base else None
        kept = [row for row, chunk in enumerate(old or ()) if chunk.id not in self._parts.documents]
        ChunkFile.write(aside, itertools.chain((old.line(row) for row in kept) if old else (), self._parts.lines()))
        chunks = ChunkFile(aside)
        words, embedding = self._info.words, self._info.embedding
        if self._base is None:
            words = Analyzer(words.stemmer, self._ideographs or ideographs_of(chunk.text for chunk in chunks))
        Bm25.write(aside, (chunk.ranked_text for chunk in chunks), words)
        if embedding is not None:
            vectors = self._vectors(kept)
            Dense.write(aside, vectors, embedding.factory)
            embedding = embedding.model_copy(update={"dimensions": vectors.shape[1]})
        rejects = [orjson.dumps(one) for one in self._parts.rejects]
        if self._base and (self._base / LEFT_OUT).is_file():
            rejects = (self._base / LEFT_OUT).read_bytes().splitlines() + rejects
        (aside / LEFT_OUT).write_bytes(b"".join(line + b"\n" for line in rejects))
        counts = {
            "built_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "documents": len({chunk.id for chunk in chunks}),
            "chunks": len(chunks),
            "left_out": len(rejects),
        }
        info = self._info.model_copy(update=counts | {"words": words, "embedding": embedding})
        info.write(aside)
        version = self._folder.publish(aside, self._name)
        shutil.rmtree(self._folder.building)
        return BuildResult(version, info, tuple(self._parts.rejects), self._parts.resumed)

    def _vectors(self, kept: Sequence[int]) -> FloatArray:
        old = [np.load(self._base / VECTORS, mmap_mode="r")[kept]] if self._base else []
        parts = [*old, *self._parts.vectors()]
        dimensions = sorted({part.shape[1] for part in parts})
        if len(dimensions) > 1:
            raise ConfigurationError(f"the vectors have {dimensions} dimensions: the embedding model has changed")
        vectors: FloatArray = np.concatenate(parts).astype(np.float32, copy=False)
        return vectors


class _Parts:
    """The finished parts of one build, on disk."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Take up the parts that are there for this plan (all that the result depends on), or start over."""
        self._folder = folder
        self._count = 0
        self.position: _Position = (0, 0)
        self.rejects: list[Reject] = []
        content = orjson.dumps(plan)
        if (folder / "plan.json").is_file() and (folder / "plan.json").read_bytes() == content:
            while (end := self._path(self._count, "json")).is_file():
                part = orjson.loads(end.read_bytes())
                self.position = tuple(part["position"])
                self.rejects += [Reject(**one) for one in part["problems"]]
                self._count += 1
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole(folder / "plan.json", content)
        self.documents = {from_line(line).id for line in self.lines()}
        self.resumed = self._count > 0

    def add(
        self, chunks: Sequence[Chunk], vectors: FloatArray | None, rejects: Sequence[Reject], position: _Position
    ) -> None:
        """Keep a part; from then on it is done, whatever happens."""
        lines = self._path(self._count, "jsonl")
        lines.write_bytes(b"".join(map(to_line, chunks)))
        sync(lines)
        if vectors is not None:
            np.save(self._path(self._count, "npy"), vectors)
            sync(self._path(self._count, "npy"))
        part = {"position": position, "problems": [asdict(one) for one in rejects]}
        write_whole(self._path(self._count, "json"), orjson.dumps(part))
        self.rejects += rejects
        self.documents |= {chunk.id for chunk in chunks}
        self.position = position
        self._count += 1

    def lines(self) -> Iterator[bytes]:
        """All chunks so far, as they are on disk."""
        for part in range(self._count):
            with self._path(part, "jsonl").open("rb") as file:
                yield from file

    def vectors(self) -> list[FloatArray]:
        """The vectors of each part; a part of rejects only has none."""
        paths = [self._path(part, "npy") for part in range(self._count)]
        return [np.load(path) for path in paths if path.is_file()]

    def _path(self, part: int, suffix: str) -> Path:
        return self._folder / f"{part:06d}.{suffix}"
