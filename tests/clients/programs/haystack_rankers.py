"""Haystack's rankers."""

from _report import DOCUMENTS, QUERY, index_of, main
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker


def _cohere(url, key):
    return CohereRanker(model="any", api_key=Secret.from_token(key), api_base_url=url)


def _jina(url, key):
    return JinaRanker(model="any", api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank")


def _tei(url, key):
    return HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), top_k=3)


def now(make):
    return lambda url, key: _pairs(make(url, key).run(query=QUERY, documents=_documents()))


def later(make):
    async def ask(url, key):
        return _pairs(await make(url, key).run_async(query=QUERY, documents=_documents()))

    return ask


def _documents():
    return [Document(content=text) for text in DOCUMENTS]


def _pairs(answer):
    return [(index_of(one.content), one.score) for one in answer["documents"]]


RANKERS = {"CohereRanker": _cohere, "JinaRanker": _jina, "HuggingFaceTEIRanker": _tei}
main(
    {f"haystack {name}": now(make) for name, make in RANKERS.items()}
    | {f"haystack {name}, async": later(make) for name, make in RANKERS.items()}
)
