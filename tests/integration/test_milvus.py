"""An existing Milvus as the first stage: its embedded form, filled by its own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.search import Indexes
from reranker.config import MilvusConfig, SearchConfig
from reranker.errors import ConfigurationError, InvalidRequestError, RetrievalError
from reranker.search.embedding import simulated_vectors
from reranker.search.filters import read_filter
from reranker.search.first_stages import Milvus, Query
from tests.indexes import DOCUMENTS, SimulatedEmbedder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a collection with vectors, Milvus' own BM25, and metadata."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    uri = str(tmp_path_factory.mktemp("milvus") / "books.db")
    client = MilvusClient(uri)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("body", DataType.VARCHAR, max_length=4_096, enable_analyzer=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=256)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    bm25 = Function(
        name="bm25", function_type=FunctionType.BM25, input_field_names=["body"], output_field_names=["words"]
    )
    schema.add_function(bm25)
    indexes = client.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="COSINE")
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection("books", schema=schema, index_params=indexes)
    texts = [str(one["text"]) for one in DOCUMENTS]
    rows = [
        {"id": one["id"], "body": text, "vector": vector.tolist(), "lang": one["lang"], "year": one["year"]}
        | ({"title": one["title"]} if "title" in one else {})
        for one, text, vector in zip(DOCUMENTS, texts, simulated_vectors(texts), strict=True)
    ]
    client.insert("books", rows)
    yield {"uri": uri, "collection": "books", "text_field": "body", "title_field": "title"}
    client.close()


def _milvus(collection: dict[str, Any], **fields: Any) -> Milvus:
    return Milvus(MilvusConfig(**collection, **fields), {}, SimulatedEmbedder())


@pytest.mark.parametrize(
    "fields",
    [{}, {"vector_field": None, "words_field": "words"}, {"words_field": "words"}],
    ids=["vectors", "words", "both"],
)
async def test_collection_is_searched_by_each_of_its_fields(collection: dict[str, Any], fields: dict[str, Any]) -> None:
    milvus = _milvus(collection, **fields)
    found = await milvus.search("captain white", 3)
    assert found[0].chunk.id == "whale"
    assert found[0].chunk.ranked_text == "Moby-Dick A captain hunts a white whale."
    assert found[0].chunk.metadata == {"lang": "en", "year": 1851}
    only = await milvus.search("whale", 3, read_filter({"lang": "de", "year": {"$gte": 1900}}))
    assert [one.chunk.id for one in only] == ["wal"]


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ({"lang": ["en", "zh"]}, {"whale", "sea", "match"}),
        ({"$or": [{"lang": "de"}, {"year": 1815}]}, {"wal", "match"}),
        ({"$not": {"lang": "en"}}, {"wal"}),
        ({"lang": {"$nin": ["en"]}}, {"wal"}),
        ({"lang": '" or lang == "en'}, set()),  # a value stays a value
        ({"lang": '\\" or lang != "'}, set()),
        ({"lang": "中文"}, set()),
    ],
)
async def test_filters_are_written_as_milvus_reads_them(
    collection: dict[str, Any], given: dict[str, Any], ids: set[str]
) -> None:
    found = await _milvus(collection).search("whale", 10, read_filter(given))
    assert {one.chunk.id for one in found} == ids


@pytest.mark.parametrize("given", [{'lang == "en" or x': 1}, {"lang": [None, "de"]}])
async def test_filters_that_milvus_cannot_have_are_refused(collection: dict[str, Any], given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="in Milvus"):
        await _milvus(collection).search("whale", 10, read_filter(given))


async def test_index_of_the_configuration_is_a_milvus(collection: dict[str, Any]) -> None:
    settings = {"indexes": {"books": {"milvus": collection}}, "embedding": {"model": "simulated"}}
    indexes = Indexes(SearchConfig.model_validate(settings), SimulatedEmbedder(), {})
    found = await indexes.search(Query("captain", 2))
    assert (found.first_stage, found.candidates[0].chunk.id) == ("milvus", "whale")
    assert (await indexes.describe())[0]["collection"] == "books"


def test_collection_that_is_not_there_is_said(collection: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no collection nowhere"):
        _milvus(collection | {"collection": "nowhere"})


def test_field_that_is_not_there_is_said(collection: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"no field .*nowhere"):
        _milvus(collection, vector_field="nowhere")


async def test_milvus_that_does_not_answer_fails_the_search_only(collection: dict[str, Any]) -> None:
    milvus = _milvus(collection, words_field="words")
    milvus._client.close()
    with pytest.raises(RetrievalError):
        await milvus.search("whale", 2)
