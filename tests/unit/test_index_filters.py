"""A filter lets through what it says, and wrong ones name their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker.errors import InvalidRequestError
from reranker.search.documents import Chunk
from reranker.search.filters import RowFilter, read_filter
from reranker.search.index import ChunkFile, to_line

DOCUMENTS: list[dict[str, Any]] = [
    {"lang": "de", "year": 2020, "tags": ["a", "b"]},
    {"lang": "en", "year": 2021.5, "inner": {"deep": None}},
    {"lang": "zh", "year": "2022", "draft": True},
    {},
]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"lang": "de"}, [0]),
        ({"lang": ["de", "zh"]}, [0, 2]),
        ({"tags": "b"}, [0]),
        ({"year": {"$gte": 2020, "$lt": 2021}}, [0]),
        ({"year": {"$gt": 0}}, [0, 1]),  # a text is neither more nor less than a number
        ({"year": {"$gt": "2021"}}, [2]),
        ({"draft": 1}, []),  # true is not 1
        ({"draft": True}, [2]),
        ({"inner.deep": None}, [1]),
        ({"lang": {"$ne": "de"}}, [1, 2, 3]),
        ({"lang": {"$nin": ["de", "en"]}}, [2, 3]),
        ({"lang": {"$exists": False}}, [3]),
        ({"$or": [{"lang": "de"}, {"draft": True}]}, [0, 2]),
        ({"$and": [{"lang": "de"}, {"draft": True}]}, []),
        ({"$not": {"lang": "de"}}, [1, 2, 3]),
        ({"lang": "de", "year": 2020}, [0]),
        ({"$or": [{}, {"lang": "de"}]}, [0, 1, 2, 3]),
        ({"$not": {}}, []),
    ],
)
def test_filters_let_through_what_they_say(tmp_path: Path, given: dict[str, Any], found: list[int]) -> None:
    where = read_filter(given)
    ChunkFile.write(tmp_path, (to_line(Chunk(str(i), 0, "text", metadata=one)) for i, one in enumerate(DOCUMENTS)))
    chunks = ChunkFile(tmp_path)
    rows = (
        RowFilter(len(chunks), lambda: (chunk.metadata for chunk in chunks)).rows(where)
        if where
        else np.ones(len(chunks), np.bool_)
    )
    assert np.flatnonzero(rows).tolist() == found


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([], "filter"),
        ({"$nor": []}, "filter.$nor"),
        ({"a": {"$regex": "x"}}, "filter.a.$regex"),
        ({"a": {"$in": "x"}}, "filter.a"),
        ({"a": [{}]}, "filter.a"),
        ({"a": {"$gt": True}}, "filter.a"),
        ({"a": {"$exists": 1}}, "filter.a"),
        ({"a": {"$eq": {}}}, "filter.a"),
        ({"$or": []}, "filter.$or"),
        ({"$and": [1]}, "filter.$and[0]"),
        ({"a": list(range(2_000))}, "filter.a"),
        ({str(i): i for i in range(2_000)}, "filter"),
    ],
)
def test_wrong_filters_name_their_place(given: Any, where: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_filter(given)
    assert caught.value.field == where


def test_filters_have_a_depth() -> None:
    given: dict[str, Any] = {"a": 1}
    for _ in range(30):
        given = {"$not": given}
    with pytest.raises(InvalidRequestError, match="nested more than 16 deep"):
        read_filter(given)
