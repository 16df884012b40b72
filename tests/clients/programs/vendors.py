"""The own clients of DashScope, Mixedbread, NVIDIA, Pinecone and ZeroEntropy."""

import dashscope
from _report import DOCUMENTS, QUERY, index_of, main
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank
from mixedbread import AsyncMixedbread, Mixedbread
from pinecone import Pinecone
from zeroentropy import AsyncZeroEntropy, ZeroEntropy


def _score(log_odds):
    return 1 / (1 + 2.718281828459045**-log_odds)


def nvidia(url, key):
    ranker = NVIDIARerank(base_url=f"{url}/v1", model="reranker", api_key=key, truncate="END")
    answer = ranker.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    return [(index_of(one.page_content), _score(one.metadata["relevance_score"])) for one in answer]


def _mixedbread(answer):
    assert answer.top_k == len(answer.data)
    assert [one.input for one in answer.data] == [DOCUMENTS[one.index] for one in answer.data]
    return [(one.index, one.score) for one in answer.data]


def mixedbread(url, key):
    client = Mixedbread(base_url=url, api_key=key)
    return _mixedbread(client.rerank(model="reranker", query=QUERY, input=DOCUMENTS, return_input=True))


async def mixedbread_async(url, key):
    client = AsyncMixedbread(base_url=url, api_key=key)
    return _mixedbread(await client.rerank(query=QUERY, input=DOCUMENTS, top_k=2, return_input=True))


def pinecone(url, key):
    client = Pinecone(api_key="any", host=f"{url}/pinecone", additional_headers={"Authorization": f"Bearer {key}"})
    documents = [{"id": f"{number}", "text": text} for number, text in enumerate(DOCUMENTS)]
    answer = client.inference.rerank(
        model="reranker", query=QUERY, documents=documents, top_n=4, parameters={"truncate": "END"}
    )
    assert answer.usage.rerank_units == 1
    assert [one.document for one in answer.data] == [documents[one.index] for one in answer.data]
    return [(one.index, one.score) for one in answer.data]


def _zeroentropy(answer):
    assert answer.actual_latency_mode == "fast"
    assert answer.total_tokens > 0
    return [(one.index, one.relevance_score) for one in answer.results]


def zeroentropy(url, key):
    client = ZeroEntropy(base_url=f"{url}/v1", api_key=key)
    return _zeroentropy(client.models.rerank(model="zerank-2", query=QUERY, documents=DOCUMENTS))


async def zeroentropy_async(url, key):
    client = AsyncZeroEntropy(base_url=f"{url}/v1", api_key=key)
    return _zeroentropy(await client.models.rerank(model="zerank-2", query=QUERY, documents=DOCUMENTS, top_n=2))


def dashscope_native(url, key):
    dashscope.base_http_api_url = f"{url}/api/v1"
    answer = dashscope.TextReRank.call(
        model="gte-rerank", query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True, api_key=key
    )
    if answer.status_code != 200:  # it raises nothing
        raise RuntimeError(f"{answer.status_code} {answer.message}")
    assert [one["document"]["text"] for one in answer.output.results] == [
        DOCUMENTS[one.index] for one in answer.output.results
    ]
    return [(one.index, one.relevance_score) for one in answer.output.results]


main(
    {
        "langchain NVIDIARerank": nvidia,
        "mixedbread Mixedbread": mixedbread,
        "mixedbread AsyncMixedbread": mixedbread_async,
        "pinecone Pinecone": pinecone,
        "zeroentropy ZeroEntropy": zeroentropy,
        "zeroentropy AsyncZeroEntropy": zeroentropy_async,
        "dashscope TextReRank": dashscope_native,
    }
)
