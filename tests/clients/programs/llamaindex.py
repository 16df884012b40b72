"""LlamaIndex's node postprocessors."""

import voyageai
from _report import DOCUMENTS, QUERY, index_of, main
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank
from llama_index.postprocessor.xinference_rerank import XinferenceRerank


def _ranked(postprocessor):
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    return [(index_of(one.text), one.score) for one in postprocessor.postprocess_nodes(nodes, query_str=QUERY)]


def cohere(url, key):
    return _ranked(CohereRerank(api_key=key, base_url=url, model="any", top_n=3))


def jina(url, key):
    return _ranked(JinaRerank(base_url=f"{url}/v1", api_key=key, top_n=3))


def siliconflow(url, key):
    return _ranked(SiliconFlowRerank(base_url=f"{url}/v1/rerank", api_key=key, top_n=3))


def tei(url, key):
    return _ranked(TextEmbeddingInference(base_url=url, auth_token=f"Bearer {key}", top_n=3))


def voyage(url, key):
    postprocessor = VoyageAIRerank(model="rerank-2", api_key=key, top_n=3)
    postprocessor._client = voyageai.Client(api_key=key, base_url=f"{url}/v1")  # it has no setting for it
    return _ranked(postprocessor)


def xinference(url, key):
    return _ranked(XinferenceRerank(base_url=url, model="any", top_n=3))  # it sends no key


main(
    {
        "llama-index cohere-rerank": cohere,
        "llama-index jinaai-rerank": jina,
        "llama-index siliconflow-rerank": siliconflow,
        "llama-index tei-rerank": tei,
        "llama-index voyageai-rerank": voyage,
        "llama-index xinference-rerank": xinference,
    }
)
