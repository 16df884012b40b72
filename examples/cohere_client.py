# /// script
# requires-python = ">=3.10"
# dependencies = ["cohere>=5.21"]
# ///
"""Cohere's own client, with nothing changed but its base URL."""

import os

import cohere

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
DOCUMENTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]

client = cohere.ClientV2(api_key=KEY, base_url=URL)
answer = client.rerank(model="any", query="What is the capital of China?", documents=DOCUMENTS, top_n=2)
for result in answer.results:
    print(f"{result.relevance_score:.3f}  {DOCUMENTS[result.index]}")

# v1 takes documents with fields, and gives them back.
books = [
    {"title": "Emma", "about": "A young woman makes matches."},
    {"title": "Moby-Dick", "about": "A captain hunts a whale."},
]
old = cohere.Client(api_key=KEY, base_url=URL)
best = old.rerank(
    model="any",
    query="a novel about a whale",
    documents=books,
    rank_fields=["title", "about"],
    top_n=1,
    return_documents=True,
)
print(best.results[0].document)
