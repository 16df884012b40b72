"""Cohere's, Voyage's and xinference's own clients."""

import cohere
import voyageai
import xinference_client
from _report import DOCUMENTS, QUERY, main
from xinference_client.client.restful.async_restful_client import AsyncClient as AsyncXinference


def cohere_v1(url, key):
    answer = cohere.Client(api_key=key, base_url=url).rerank(
        model="any", query=QUERY, documents=DOCUMENTS, return_documents=True, max_chunks_per_doc=10
    )
    assert [one.document.text for one in answer.results] == [DOCUMENTS[one.index] for one in answer.results]
    return [(one.index, one.relevance_score) for one in answer.results]


def cohere_v1_objects(url, key):
    documents = [{"text": text, "id": str(number)} for number, text in enumerate(DOCUMENTS)]
    answer = cohere.Client(api_key=key, base_url=url).rerank(
        model="any", query=QUERY, documents=documents, rank_fields=["text"], return_documents=True
    )
    assert [one.document.text for one in answer.results] == [DOCUMENTS[one.index] for one in answer.results]
    return [(one.index, one.relevance_score) for one in answer.results]


async def cohere_v1_async(url, key):
    answer = await cohere.AsyncClient(api_key=key, base_url=url).rerank(model="any", query=QUERY, documents=DOCUMENTS)
    return [(one.index, one.relevance_score) for one in answer.results]


def cohere_v2(url, key):
    answer = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model="any", query=QUERY, documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096
    )
    return [(one.index, one.relevance_score) for one in answer.results]


def cohere_v2_spans(url, key):
    asked = cohere.RerankRelevantSpans(mode="enabled", threshold=0.1, max_spans=3)
    documents = [f"{DOCUMENTS[(number + 3) % len(DOCUMENTS)]} {text}" for number, text in enumerate(DOCUMENTS)]
    answer = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model="any", query=QUERY, documents=documents, relevant_spans=asked
    )
    spans = {one.index: one.relevant_spans for one in answer.results if one.relevant_spans}
    assert spans
    for index, those in spans.items():
        assert all(isinstance(one, cohere.RerankRelevantSpanResponse) for one in those)
        assert all(0 <= one.start < one.end <= len(documents[index]) and 0.1 <= one.score <= 1 for one in those)
        assert [one.score for one in those] == sorted((one.score for one in those), reverse=True)
    return cohere_v2(url, key)


def cohere_v2_at_v1(url, key):
    answer = cohere.ClientV2(api_key=key, base_url=f"{url}/v1").rerank(model="any", query=QUERY, documents=DOCUMENTS)
    return [(one.index, one.relevance_score) for one in answer.results]


async def cohere_v2_async(url, key):
    client = cohere.AsyncClientV2(api_key=key, base_url=url)
    answer = await client.rerank(model="any", query=QUERY, documents=DOCUMENTS, priority=1)
    return [(one.index, one.relevance_score) for one in answer.results]


def voyage(url, key):
    client = voyageai.Client(api_key=key, base_url=f"{url}/v1")
    answer = client.rerank(QUERY, DOCUMENTS, model="rerank-2")
    assert answer.total_tokens > 0
    assert [one.document for one in answer.results] == [DOCUMENTS[one.index] for one in answer.results]
    return [(one.index, one.relevance_score) for one in answer.results]


async def voyage_async(url, key):
    client = voyageai.AsyncClient(api_key=key, base_url=f"{url}/v1")
    answer = await client.rerank(QUERY, DOCUMENTS, model="rerank-2", top_k=2)
    return [(one.index, one.relevance_score) for one in answer.results]


def xinference(url, key):
    model = xinference_client.RESTfulClient(url, api_key=key).get_model("demo")
    answer = model.rerank(DOCUMENTS, QUERY, return_documents=True)
    assert [one["document"]["text"] for one in answer["results"]] == [
        DOCUMENTS[one["index"]] for one in answer["results"]
    ]
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


async def xinference_async(url, key):
    client = AsyncXinference(url, api_key=key)
    model = await client.get_model("demo")
    answer = await model.rerank(DOCUMENTS, QUERY, top_n=2)
    await client.close()
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


main(
    {
        "cohere Client (v1)": cohere_v1,
        "cohere Client (v1), objects": cohere_v1_objects,
        "cohere AsyncClient (v1)": cohere_v1_async,
        "cohere ClientV2": cohere_v2,
        "cohere ClientV2, relevant spans": cohere_v2_spans,
        "cohere ClientV2, base URL with /v1": cohere_v2_at_v1,
        "cohere AsyncClientV2": cohere_v2_async,
        "voyageai Client": voyage,
        "voyageai AsyncClient": voyage_async,
        "xinference-client": xinference,
        "xinference-client, async": xinference_async,
    }
)
