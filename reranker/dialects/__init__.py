"""The wire dialects: a body becomes lists to rank, rankings become an answer, an error becomes its body. No more.

They are listed here and nowhere else. They share `fields.py` (the way in) and `answers.py` (the way out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reranker.dialects import (
    dashscope,
    deepinfra,
    mixedbread,
    nvidia,
    pinecone,
    rerank,
    score,
    tei,
    voyage,
    weaviate,
)
from reranker.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (
    *(rerank.DIALECT, tei.DIALECT, tei.LIST, tei.SGLANG, tei.SIMPLE, dashscope.DIALECT, mixedbread.DIALECT),
    *(weaviate.DIALECT, voyage.DIALECT, rerank.INFINITY, rerank.ZEROENTROPY, pinecone.DIALECT, nvidia.DIALECT),
    *(score.DIALECT, deepinfra.DIALECT),
)
"""In the order in which they claim a body by its fields, after the first, which takes what nobody claims."""
SHARED_PATHS = (
    *("/v1/rerank", "/v2/rerank", "/rerank"),
    *("/v1/reranks", "/reranks"),  # DashScope's compatible mode
    *("/v1/reranking", "/reranking"),  # llama.cpp's other names
    # From users who give a base URL that ends in /v1 or /v2, or the whole URL, to a client that appends its own path.
    *("/v1/v1/rerank", "/v1/v2/rerank", "/v2/v1/rerank", "/v2/v2/rerank", "/v1/rerank/rerank", "/v2/rerank/rerank"),
)
"""Paths of several dialects: the body's fields say which."""
COMPLETE: Mapping[str, Dialect] = {
    "/elastic": rerank.DIALECT,
    "/elastic/list": tei.LIST,
    "/opensearch": rerank.DIALECT,
    "/milvus": rerank.DIALECT,
    "/milvus/voyage": voyage.DIALECT,
    "/weaviate": rerank.DIALECT,
    "/langchain4j": rerank.DIALECT,
    "/continue": voyage.DIALECT,
}
"""Prefixes of clients that take the scores by position or count: every document is in their answers."""
PATHS: Mapping[str, Dialect | None] = {
    **dict.fromkeys(SHARED_PATHS),
    **{
        prefix + path: replace(one, complete=True)
        for prefix, one in COMPLETE.items()
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    },
    **{path: one for one in DIALECTS for path in one.paths},
}
"""Every path of a ranking, with its dialect where the path says it."""
_WITH_MODEL = tuple((path, *path.split("{model:path}")) for path in PATHS if "{" in path)


def path_of(path: str) -> str:
    """The one in `PATHS` that a request's path is, where a model's name is in it; else the path itself."""
    named = (one for one, before, after in _WITH_MODEL if path.startswith(before) and path.endswith(after))
    return next(named, path)
