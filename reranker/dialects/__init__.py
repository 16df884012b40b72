"""The wire dialects: a body becomes lists to rank, rankings become an answer, an error becomes its body. No more.

They are listed here and nowhere else. They share `fields.py` (the way in) and `answers.py` (the way out).
"""

from __future__ import annotations

from collections.abc import Mapping

from reranker.dialects import rerank, score, tei, voyage
from reranker.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (rerank.DIALECT, tei.DIALECT, voyage.DIALECT, rerank.INFINITY, score.DIALECT)
"""In the order in which they claim a body by its fields, after the first, which takes what nobody claims."""
SHARED_PATHS = (
    *("/v1/rerank", "/v2/rerank", "/rerank"),
    *("/v1/v1/rerank", "/v1/v2/rerank"),  # from users who give Cohere's client a base URL that ends in /v1
)
"""Paths of several dialects: the body's fields say which."""
PATHS: Mapping[str, Dialect | None] = dict.fromkeys(SHARED_PATHS) | {
    path: one for one in DIALECTS for path in one.paths
}
"""Every path of a ranking, with its dialect where the path says it."""
