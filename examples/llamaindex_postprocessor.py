# /// script
# requires-python = ">=3.10"
# dependencies = ["llama-index-postprocessor-tei-rerank>=0.6", "llama-index-core"]
# ///
"""A LlamaIndex node postprocessor: what a retriever found, reranked."""

import os

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
TEXTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]

reranker = TextEmbeddingInference(base_url=URL, auth_token=f"Bearer {KEY}", top_n=2)
found = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]  # from a retriever of yours
for node in reranker.postprocess_nodes(found, query_str="What is the capital of China?"):
    print(f"{node.score:.3f}  {node.text}")
