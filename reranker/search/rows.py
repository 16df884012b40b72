"""Which chunks of an index a filter lets through: each field's values are coded once, and looked at once per filter."""

from __future__ import annotations

import threading

import numpy as np
import orjson
from numpy.typing import NDArray

from reranker.ranking.scoring import ABSENT, field_of
from reranker.search.chunkfile import ChunkFile
from reranker.search.filters import Filter, Term
from reranker.types import BoolArray


class RowFilter:
    """Applies filters to the chunks of one index. A field takes four bytes a chunk from when it is first asked for."""

    def __init__(self, chunks: ChunkFile) -> None:
        """Filter these."""
        self._chunks = chunks
        self._fields: dict[str, tuple[NDArray[np.int32], list[object]]] = {}
        self._coding = threading.Lock()

    def rows(self, wanted: Filter | None) -> BoolArray | None:
        """Say of each chunk whether it is let through. None: all are."""
        return None if wanted is None else self._rows(wanted)

    def _rows(self, wanted: Filter) -> BoolArray:
        if isinstance(wanted, Term):
            codes, values = self._field(wanted.field)
            holds = np.fromiter((wanted.holds_for(value) for value in values), np.bool_, len(values))
            return holds[codes]
        every = wanted.how != "$or"
        rows = np.full(len(self._chunks), every)
        for part in wanted.parts:
            rows = rows & self._rows(part) if every else rows | self._rows(part)
        return ~rows if wanted.how == "$not" else rows

    def _field(self, name: str) -> tuple[NDArray[np.int32], list[object]]:
        with self._coding:  # reads all chunks; once is enough
            if name not in self._fields:
                self._fields[name] = self._code(name)
            return self._fields[name]

    def _code(self, name: str) -> tuple[NDArray[np.int32], list[object]]:
        codes: dict[bytes, int] = {}
        values: list[object] = []
        column = np.empty(len(self._chunks), dtype=np.int32)
        for place, metadata in enumerate(self._chunks.metadata()):
            value = field_of(metadata, name)
            key = b"" if value is ABSENT else orjson.dumps(value)
            code = codes.setdefault(key, len(values))
            if code == len(values):
                values.append(value)
            column[place] = code
        return column, values
