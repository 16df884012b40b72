"""Infinity's dialect: the common one, but a document comes back as a string. Chosen by `raw_scores`, or by its path."""

from __future__ import annotations

from dataclasses import replace

from reranker.dialects import rerank
from reranker.dialects.options import Item


def _as_string(_: Item, text: str) -> str:
    return text


DIALECT = replace(
    rerank.DIALECT,
    name="infinity",
    write=rerank.writer(_as_string),
    examples={
        "Infinity": {
            "query": "What is the capital of China?",
            "documents": ["Gravity attracts bodies.", "The capital of China is Beijing."],
            "return_documents": True,
            "raw_scores": False,
        }
    },
)
