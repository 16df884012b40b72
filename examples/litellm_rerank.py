# /// script
# requires-python = ">=3.10"
# dependencies = ["litellm>=1.106,<1.109"]
# ///
"""LiteLLM, by the names of four providers; each has its own form of an answer, and LiteLLM makes them one."""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks GitHub for prices when it is imported
import litellm

URL = os.environ.get("RERANKER_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("RERANKER_API_KEY", "none")
DOCUMENTS = ["Gravity attracts bodies.", "The capital of China is Beijing.", "Paris is in France."]

for model, base in (
    ("hosted_vllm/any", URL),
    ("cohere/any", URL),
    ("infinity/any", f"{URL}/infinity"),  # it sends what it sends to vLLM, and wants strings back
    ("voyage/any", f"{URL}/voyage"),
):
    answer = litellm.rerank(
        model=model, query="What is the capital of China?", documents=DOCUMENTS, top_n=1, api_base=base, api_key=KEY
    )
    [best] = answer.results
    print(f"{model:16} {best['relevance_score']:.3f}  {DOCUMENTS[best['index']]}")
