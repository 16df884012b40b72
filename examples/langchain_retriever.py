# /// script
# requires-python = ">=3.10"
# dependencies = ["langchain-cohere>=0.6", "langchain-community>=0.4", "langchain-classic>=1", "rank-bm25>=0.2"]
# ///
"""A LangChain retriever whose candidates are reranked."""

import os

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_cohere import CohereRerank
from langchain_community.retrievers import BM25Retriever

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
TEXTS = [
    "Gravity attracts bodies.",
    "The capital of China is Beijing.",
    "China exports goods to the markets of the world.",
    "Paris is the capital of France.",
]

retriever = BM25Retriever.from_texts(TEXTS, k=4)
reranker = CohereRerank(cohere_api_key=KEY, base_url=URL, model="any", top_n=2)
pipeline = ContextualCompressionRetriever(base_retriever=retriever, base_compressor=reranker)
for document in pipeline.invoke("What is the capital of China?"):
    print(f"{document.metadata['relevance_score']:.3f}  {document.page_content}")
