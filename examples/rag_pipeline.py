# /// script
# requires-python = ">=3.10"
# dependencies = ["bm25s>=0.2", "httpx>=0.28"]
# ///
"""Retrieve, rerank, answer: the whole of RAG but the language model, whose place is `answer`.

A cheap search finds many candidates by their words; the reranker reads each together with the question and puts first
what answers it; only these few go into the prompt.
"""

import os
import sys

import bm25s
import httpx

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
QUESTION = " ".join(sys.argv[1:]) or "Which city is the capital of China?"
CORPUS = [
    "The capital of China is the city of Beijing, in the north of the country.",
    "Shanghai, on the coast, is the largest city of China by its population.",
    "China has a long history, and its emperors ruled from several places.",
    "Paris is the capital and the largest city of France.",
    "A capital letter begins a sentence and a name.",
    "Gravity attracts bodies with mass to each other.",
]


def retrieve(question: str, count: int) -> list[str]:
    """Find candidates by their words."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(CORPUS, show_progress=False), show_progress=False)
    found, _ = index.retrieve(bm25s.tokenize(question, show_progress=False), k=count, show_progress=False)
    return [CORPUS[place] for place in found[0]]


def rerank(question: str, candidates: list[str], count: int) -> list[tuple[float, str]]:
    """Keep the best of them; a service that is busy says when to come back."""
    response = httpx.post(
        f"{URL}/v1/rerank",
        json={"query": question, "documents": candidates, "top_n": count},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )
    if response.is_error:
        sys.exit(f"{response.status_code}: {response.json()['message']}")
    return [(one["relevance_score"], candidates[one["index"]]) for one in response.json()["results"]]


def answer(question: str, passages: list[str]) -> str:
    """Your language model goes here; this only shows what it would be given."""
    sources = "\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))
    return f"Answer from these passages only, and name them.\n{sources}\nQuestion: {question}"


best = rerank(QUESTION, retrieve(QUESTION, count=5), count=2)
for score, passage in best:
    print(f"{score:.3f}  {passage}")
print()
print(answer(QUESTION, [passage for _, passage in best]))
