# /// script
# dependencies = ["httpx"]
# ///
"""Documents for a RAG pipeline: search, and a prompt with the passages in it; what answers it is yours.

examples/search/run.sh docs                                  # in one terminal
uv run examples/search/ask.py "How do I empty the cache?"    # in another
"""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")


def passages(question: str) -> list[dict[str, Any]]:
    """Find the passages that answer a question, best first: at most two of one document."""
    response = httpx.post(
        f"{URL}/v1/search",
        json={"query": question, "index": "docs", "top_n": 5, "max_per_document": 2},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    response.raise_for_status()
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def prompt(question: str, found: list[dict[str, Any]]) -> str:
    """Write what a language model is asked."""
    sources = "\n\n".join(f"[{number}] {one['id']}\n{one['text']}" for number, one in enumerate(found, start=1))
    return f"Answer the question from these sources only, and name them by number.\n\n{sources}\n\nQuestion: {question}"


def answer(prompt: str) -> str:
    """Put your language model here: for example, the chat endpoint of a `vllm serve`."""
    return "(no language model is attached; see `answer` in this file)"


def main() -> None:
    """Ask, and show what would be answered from."""
    question = " ".join(sys.argv[1:]) or "How do I empty the score cache?"
    found = passages(question)
    for number, one in enumerate(found, start=1):
        print(f"[{number}] {one['relevance_score']:.3f}  {one['id']}, chunk {one['chunk']}")
    print(answer(prompt(question, found)))


if __name__ == "__main__":
    main()
