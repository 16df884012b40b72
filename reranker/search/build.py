"""Build an index from files, or add files to one: read, cut, embed, in parts, then publish a version of it all.

Finished parts are kept in a database, so that a build that was killed goes on where it was. Its name is a hash of
all that the result depends on: a build of anything else starts over.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson

from reranker.errors import ConfigurationError
from reranker.model.checkpoint import find_folder
from reranker.search import documents as reading
from reranker.search.documents import Document, Reject
from reranker.search.first_stages import VECTORS, Bm25, Dense
from reranker.search.index import INFO, ChunkFile, IndexFolder, IndexInfo, from_line, to_line
from reranker.types import FloatArray

LEFT_OUT = "left_out.jsonl"
_PART = (1_000, 2_000_000)  # documents and bytes, at most
_PART_EMBEDDED = (64, 100_000)  # a kill loses a minute's embedding at most

Embed: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Embeds documents: shape (texts, dimensions), of length 1 each."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished build; `rejects` are the records that it left out."""

    version: Path
    info: IndexInfo
    rejects: tuple[Reject, ...]
    resumed: bool
    """Whether it finished a build that was interrupted."""


class Build:
    """One build of one index. If it is interrupted, the served index stays whole, and the next build goes on."""

    def __init__(
        self,
        folder: IndexFolder,
        sources: Sequence[reading.Source],
        info: IndexInfo,
        *,
        add: bool = False,
        ideographs: reading.Ideographs | None = None,
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
        self._chunker = reading.Chunker(find_folder(info.tokenizer), info.chunking)
        served = folder.served()
        files = [[str(one.path.resolve()), one.name, one.size_bytes, one.changed_ns] for one in sources]
        plan = orjson.dumps([served and served.name, add, info.model_dump(mode="json"), ideographs, files])
        self._database = folder.building / f"{hashlib.sha256(plan).hexdigest()}.sqlite"
        self._position = (0, 0)
        """Where reading goes on: number of the file, and how many of its documents and rejects are done."""
        self._rejects: list[Reject] = []
        self._ids: set[str] = set()
        if not self._database.is_file():
            shutil.rmtree(folder.building, ignore_errors=True)
            folder.building.mkdir(parents=True)
        with self._parts() as parts:
            parts.execute("CREATE TABLE IF NOT EXISTS parts (place, number, rejects, chunks, vectors)")
            for place, number, rejects, chunks in parts.execute("SELECT place, number, rejects, chunks FROM parts"):
                self._position = (place, number)
                self._rejects += [Reject(**one) for one in orjson.loads(rejects)]
                self._ids |= {from_line(line).id for line in chunks.splitlines()}
        self._resumed = self._position != (0, 0)

    @property
    def done_bytes(self) -> int:
        """Size of the sources that are done."""
        return sum(one.size_bytes for one in self._sources[: self._position[0]])

    def run(self, advance: Callable[[int], object] = lambda done_bytes: None) -> BuildResult:
        """Do what is left, and publish the result; raises ConfigurationError if there is not one document.

        `advance` is told, as parts are done, how many bytes of the sources are, approximately.
        """
        most_documents, most_bytes = _PART_EMBEDDED if self._embed else _PART
        part: list[tuple[reading.Source, Document | Reject]] = []
        part_bytes = 0
        first, done = self._position
        for place, source in enumerate(self._sources[first:], first):
            records = enumerate(reading.read_documents(source, self._info.fields), 1)
            source_bytes = 0
            for number, record in itertools.islice(records, done if place == first else 0, None):
                part.append((source, record))
                size_bytes = len(record.text.encode()) if isinstance(record, Document) else 0
                part_bytes += size_bytes
                source_bytes += size_bytes
                if len(part) >= most_documents or part_bytes >= most_bytes:
                    self._add(part, (place, number))
                    advance(self.done_bytes + source_bytes)
                    part, part_bytes = [], 0
        self._add(part, (len(self._sources), 0))
        advance(self.done_bytes)
        if not self._ids:
            shutil.rmtree(self._folder.building)
            said = f", the first: {self._rejects[0]}" if self._rejects else ""
            raise ConfigurationError(f"not one document to index; {len(self._rejects)} problems{said}")
        return self._publish()

    def _add(self, part: Sequence[tuple[reading.Source, Document | Reject]], position: tuple[int, int]) -> None:
        """Cut and embed a part, and keep it; from then on it is done, whatever happens."""
        documents: dict[str, Document] = {}
        rejects: list[Reject] = []
        for source, record in part:
            if isinstance(record, Reject):
                rejects.append(record)
            elif record.id in self._ids or record.id in documents:
                said = f"has the id {record.id!r} a second time; the first is kept"
                rejects.append(Reject(str(source.path), record.line, said))
            else:
                documents[record.id] = record
        chunks = self._chunker.chunks(list(documents.values()))
        vectors = None
        if self._embed and chunks:
            vectors = self._embed([chunk.ranked_text for chunk in chunks]).astype(np.float32, copy=False).tobytes()
        row = (*position, orjson.dumps(rejects), b"".join(map(to_line, chunks)), vectors)
        with self._parts() as parts:
            parts.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", row)
        self._position = position
        self._rejects += rejects
        self._ids |= documents.keys()

    @contextlib.contextmanager
    def _parts(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction, which is durable when the block ends well."""
        with contextlib.closing(sqlite3.connect(self._database)) as connection, connection:
            yield connection

    def _publish(self) -> BuildResult:
        """Write the version aside, and let it be served."""
        aside = self._folder.building / "version"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        old = ChunkFile(self._base) if self._base else None
        kept = [row for row, chunk in enumerate(old or ()) if chunk.id not in self._ids]
        with self._parts() as parts:
            new = (line for (lines,) in parts.execute("SELECT chunks FROM parts") for line in lines.splitlines(True))
            ChunkFile.write(aside, itertools.chain(map(old.line, kept) if old else (), new))
        chunks = ChunkFile(aside)
        words, embedding = self._info.words, self._info.embedding
        if self._base is None:
            ideographs = self._ideographs or reading.ideographs_of(chunk.text for chunk in chunks)
            words = reading.Analyzer(words.stemmer, ideographs)
        Bm25.write(aside, (chunk.ranked_text for chunk in chunks), words)
        if embedding is not None:
            vectors = self._vectors(kept)
            Dense.write(aside, vectors, embedding.factory)
            embedding = embedding.model_copy(update={"dimensions": vectors.shape[1]})
        rejects = [orjson.dumps(one) for one in self._rejects]
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
        (aside / INFO).write_text(info.model_dump_json(indent=2), encoding="utf-8")
        version = self._folder.publish(aside)
        shutil.rmtree(self._folder.building)
        return BuildResult(version, info, tuple(self._rejects), self._resumed)

    def _vectors(self, kept: Sequence[int]) -> FloatArray:
        found = [np.load(self._base / VECTORS, mmap_mode="r")[kept]] if self._base else []
        with self._parts() as parts:  # one of rejects only has none
            for chunks, vectors in parts.execute("SELECT chunks, vectors FROM parts WHERE vectors IS NOT NULL"):
                found.append(np.frombuffer(vectors, np.float32).reshape(chunks.count(b"\n"), -1))
        dimensions = sorted({one.shape[1] for one in found})
        if len(dimensions) > 1:
            raise ConfigurationError(f"the vectors have {dimensions} dimensions: the embedding model has changed")
        vectors_of_all: FloatArray = np.concatenate(found).astype(np.float32, copy=False)
        return vectors_of_all
