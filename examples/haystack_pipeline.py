# /// script
# requires-python = ">=3.10"
# dependencies = ["cohere-haystack>=11", "haystack-ai>=3"]
# ///
"""A Haystack pipeline: BM25 finds, the service reranks."""

import os

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
QUESTION = "What is the capital of China?"
TEXTS = [
    "Gravity attracts bodies.",
    "The capital of China is Beijing.",
    "China exports goods to the markets of the world.",
    "Paris is the capital of France.",
]

store = InMemoryDocumentStore()
store.write_documents([Document(content=text) for text in TEXTS])
pipeline = Pipeline()
pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=4))
pipeline.add_component("ranker", CohereRanker(model="any", api_key=Secret.from_token(KEY), api_base_url=URL, top_k=2))
pipeline.connect("retriever.documents", "ranker.documents")
answer = pipeline.run({"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION}})
for document in answer["ranker"]["documents"]:
    print(f"{document.score:.3f}  {document.content}")
