"""Makes an index of files, or adds files to one: read, cut, embed, in parts; then one version of it all is served."""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from reranker.errors import ConfigurationError
from reranker.model.checkpoint import find_folder
from reranker.search import bm25, chunkfile, dense
from reranker.search.base import Document
from reranker.search.chunkfile import ChunkFile
from reranker.search.chunking import Chunker
from reranker.search.facts import FILE, IndexFacts
from reranker.search.folder import IndexFolder
from reranker.search.parts import Parts, Position
from reranker.search.sources import Problem, Source, read
from reranker.search.words import Ideographs, ideographs_of
from reranker.types import FloatArray

LEFT_OUT = "left_out.jsonl"
_PART_DOCUMENTS, _PART_CHARACTERS = 1_000, 2_000_000
_PART_DOCUMENTS_EMBEDDED, _PART_CHARACTERS_EMBEDDED = 64, 100_000  # of these a minute's work is lost at most

Embed = Callable[[Sequence[str]], FloatArray]
"""Embeds documents: shape (texts, dimensions), of length 1 each."""


@dataclass(frozen=True, slots=True)
class Built:
    """What came of a build."""

    version: Path
    facts: IndexFacts
    problems: tuple[Problem, ...]
    """What was left out, this time."""
    resumed: bool
    """A build that was interrupted was finished."""


class Build:
    """One build of one index. Whatever happens to it, the index that is served is whole, and the next build goes on."""

    def __init__(
        self,
        folder: IndexFolder,
        sources: Sequence[Source],
        facts: IndexFacts,
        *,
        add: bool = False,
        ideographs: Ideographs | None = None,
        embed: Embed | None = None,
    ) -> None:
        """Prepare it; the folder is to be `locked` from before this until `run` is done.

        Args:
            folder: The index.
            sources: What to read.
            facts: How to make it; what is in it is filled in.
            add: Keep what is in the index; a document of the same id takes the old one's place.
            ideographs: How Chinese characters are split. None: found out, by the documents.
            embed: Of the model that `facts.embedding` names; given if that is.
        """
        self._folder, self._sources, self._facts = folder, sources, facts
        self._ideographs, self._embed = ideographs, embed
        self._base = folder.current() if add else None
        self._chunker = Chunker(find_folder(facts.tokenizer), facts.chunking)
        folder.drop_unserved()
        self._name = folder.next_name()
        plan = {
            "name": self._name,
            "base": self._base and self._base.name,
            "facts": facts.model_dump(mode="json"),
            "ideographs": ideographs,
            "sources": [[str(one.path.resolve()), one.name, one.size_bytes, one.changed_ns] for one in sources],
        }
        self._parts = Parts(folder.building, plan)

    @property
    def done_bytes(self) -> int:
        """How much of the sources is done, about."""
        return sum(one.size_bytes for one in self._sources[: self._parts.position.source])

    def run(self, advance: Callable[[int], object] = lambda size_bytes: None) -> Built:
        """Do what is left, and let the result be served.

        Args:
            advance: Told, as parts are done, how many bytes of the sources they were, about.

        Raises:
            ConfigurationError: There is not one document to index.
        """
        for batch in self._batches():
            documents: list[Document] = []
            problems: list[Problem] = []
            known = self._parts.documents
            new: set[str] = set()
            for source, record in batch.records:
                if isinstance(record, Problem):
                    problems.append(record)
                elif record.id in known or record.id in new:
                    said = f"has the id {record.id!r} a second time; the first is kept"
                    problems.append(Problem(str(source.path), record.line, said))
                else:
                    new.add(record.id)
                    documents.append(record)
            chunks = list(itertools.chain.from_iterable(self._chunker.chunks(documents)))
            vectors = self._embed([chunk.ranked_text for chunk in chunks]) if self._embed and chunks else None
            if chunks or problems:
                self._parts.add(chunks, vectors, problems, batch.position)
            advance(batch.size_bytes)
        if not self._parts.documents:
            shutil.rmtree(self._folder.building)
            first = f", the first: {self._parts.problems[0]}" if self._parts.problems else ""
            raise ConfigurationError(f"not one document to index; {len(self._parts.problems)} problems{first}")
        return self._finish()

    def _batches(self) -> Iterator[_Batch]:
        """Cut what is left to read into parts."""
        embedded = self._embed is not None
        most_documents = _PART_DOCUMENTS_EMBEDDED if embedded else _PART_DOCUMENTS
        most_characters = _PART_CHARACTERS_EMBEDDED if embedded else _PART_CHARACTERS
        start = self._parts.position
        records: list[tuple[Source, Document | Problem]] = []
        characters = size_bytes = 0
        for place in range(start.source, len(self._sources)):
            source = self._sources[place]
            skipped = start.record if place == start.source else 0
            told_bytes = 0
            number = skipped
            for record in itertools.islice(read(source, self._facts.fields), skipped, None):
                number += 1
                records.append((source, record))
                length = len(record.text) if isinstance(record, Document) else 0
                characters += length
                told = min(length, source.size_bytes - told_bytes)
                told_bytes += told
                size_bytes += told
                if len(records) >= most_documents or characters >= most_characters:
                    yield _Batch(records, Position(place, number), size_bytes)
                    records, characters, size_bytes = [], 0, 0
            size_bytes += source.size_bytes - told_bytes
        yield _Batch(records, Position(len(self._sources), 0), size_bytes)

    def _finish(self) -> Built:
        """Write the version aside, and let it be served."""
        made = self._folder.building / "version"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        base = ChunkFile(self._base) if self._base else None
        kept = [place for place, chunk in enumerate(base or ()) if chunk.id not in self._parts.documents]
        old_lines = (base.line(place) for place in kept) if base else ()
        count = chunkfile.write(made, itertools.chain(old_lines, self._parts.lines()))
        facts = self._facts
        if facts.embedding is not None:
            vectors = self._vectors(kept)
            dense.write(made, vectors, facts.embedding.factory)
            embedding = facts.embedding.model_copy(update={"dimensions": vectors.shape[1]})
            facts = facts.model_copy(update={"embedding": embedding})
        chunks = ChunkFile(made)
        if self._base is None:
            ideographs = self._ideographs or ideographs_of(chunk.text for chunk in chunks)
            words = facts.words.__class__(facts.words.stemmer, ideographs)
            facts = facts.model_copy(update={"words": words})
        bm25.write(made, (chunk.ranked_text for chunk in chunks), facts.words)
        problems = [*self._old_problems(), *(orjson.dumps(one) for one in self._parts.problems)]
        (made / LEFT_OUT).write_bytes(b"".join(line + b"\n" for line in problems))
        facts = facts.model_copy(
            update={
                "built_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "documents": len({chunk.id for chunk in chunks}),
                "chunks": count,
                "left_out": len(problems),
            }
        )
        (made / FILE).write_text(facts.model_dump_json(indent=2), encoding="utf-8")
        version = self._folder.publish(made, self._name)
        shutil.rmtree(self._folder.building)
        return Built(version, facts, tuple(self._parts.problems), self._parts.resumed)

    def _vectors(self, kept: Sequence[int]) -> FloatArray:
        old = [np.load(self._base / dense.VECTORS, mmap_mode="r")[kept]] if self._base else []
        vectors: FloatArray = np.concatenate([*old, *self._parts.vectors()]).astype(np.float32, copy=False)
        return vectors

    def _old_problems(self) -> list[bytes]:
        file = self._base / LEFT_OUT if self._base else None
        return file.read_bytes().splitlines() if file and file.is_file() else []


@dataclass(frozen=True, slots=True)
class _Batch:
    records: list[tuple[Source, Document | Problem]]
    position: Position
    size_bytes: int
