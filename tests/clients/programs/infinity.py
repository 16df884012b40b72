"""Infinity's own client, and LangChain's compressor over it."""

from _report import DOCUMENTS, QUERY, index_of, main
from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import rerank
from infinity_client.models import RerankInput
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document


def _client(url, key):
    return AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)


def infinity(url, key):
    body = RerankInput(query=QUERY, documents=DOCUMENTS, return_documents=True)
    answer = rerank.sync(client=_client(url, key), body=body)
    assert answer.usage.total_tokens > 0
    assert [one.document for one in answer.results] == [DOCUMENTS[one.index] for one in answer.results]
    return [(one.index, one.relevance_score) for one in answer.results]


async def infinity_async(url, key):
    body = RerankInput(query=QUERY, documents=DOCUMENTS, top_n=2)
    answer = await rerank.asyncio(client=_client(url, key), body=body)
    return [(one.index, one.relevance_score) for one in answer.results]


def langchain(url, key):
    client = Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, raise_on_unexpected_status=True)
    compressor = InfinityRerank(client=client, model="any", top_n=5)
    found = compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    return [(index_of(one.page_content), one.metadata["relevance_score"]) for one in found]


main({"infinity_client": infinity, "infinity_client, async": infinity_async, "langchain InfinityRerank": langchain})
