"""The wire dialects: a body becomes lists to rank, rankings become an answer, an error becomes its body. No more.

They are listed here and nowhere else. They share `fields.py` (the way in) and `answers.py` (the way out).
"""

from __future__ import annotations

from collections.abc import Mapping

from reranker.dialects import dashscope, nvidia, rerank, score, tei, voyage, weaviate
from reranker.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (
    *(rerank.DIALECT, tei.DIALECT, tei.LIST, tei.SIMPLE, dashscope.DIALECT, weaviate.DIALECT),
    *(voyage.DIALECT, rerank.INFINITY, nvidia.DIALECT, score.DIALECT),
)
"""In the order in which they claim a body by its fields, after the first, which takes what nobody claims."""
SHARED_PATHS = (
    *("/v1/rerank", "/v2/rerank", "/rerank"),
    *("/v1/reranks", "/reranks"),  # DashScope's compatible mode
    *("/v1/reranking", "/reranking"),  # llama.cpp's other names
    "/v1/models/rerank",  # ZeroEntropy's
    # From users who give a base URL that ends in /v1 or /v2, or the whole URL, to a client that appends its own path.
    *("/v1/v1/rerank", "/v1/v2/rerank", "/v2/v1/rerank", "/v2/v2/rerank", "/v1/rerank/rerank", "/v2/rerank/rerank"),
)
"""Paths of several dialects: the body's fields say which."""
PATHS: Mapping[str, Dialect | None] = dict.fromkeys(SHARED_PATHS) | {
    path: one for one in DIALECTS for path in one.paths
}
"""Every path of a ranking, with its dialect where the path says it."""
