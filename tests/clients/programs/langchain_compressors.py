"""LangChain's compressors."""

from _report import DOCUMENTS, QUERY, index_of, main
from langchain_cohere import CohereRerank
from langchain_community.document_compressors import jina_rerank
from langchain_core.documents import Document
from langchain_voyageai import VoyageAIRerank


def _pairs(found):
    return [(index_of(one.page_content), one.metadata["relevance_score"]) for one in found]


def _documents():
    return [Document(page_content=text) for text in DOCUMENTS]


def _cohere(url, key):
    return CohereRerank(cohere_api_key=key, base_url=url, model="any")


def cohere(url, key):
    return _pairs(_cohere(url, key).compress_documents(_documents(), QUERY))


async def cohere_async(url, key):
    return _pairs(await _cohere(url, key).acompress_documents(_documents(), QUERY))


def jina(url, key):
    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"  # it has no setting for it
    compressor = jina_rerank.JinaRerank(jina_api_key=key, top_n=None)
    return _pairs(compressor.compress_documents(_documents(), QUERY))


def _voyage(url, key):
    return VoyageAIRerank(api_key=key, base_url=f"{url}/v1", model="rerank-2")


def voyage(url, key):
    return _pairs(_voyage(url, key).compress_documents(_documents(), QUERY))


async def voyage_async(url, key):
    return _pairs(await _voyage(url, key).acompress_documents(_documents(), QUERY))


main(
    {
        "langchain CohereRerank": cohere,
        "langchain CohereRerank, async": cohere_async,
        "langchain JinaRerank": jina,
        "langchain VoyageAIRerank": voyage,
        "langchain VoyageAIRerank, async": voyage_async,
    }
)
