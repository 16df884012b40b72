"""Dify's OpenAI-compatible reranker, as its plugins have it. It spreads the scores over [0, 1]."""

from _report import DOCUMENTS, QUERY, main
from dify_plugin.interfaces.model.openai_compatible.rerank import OAICompatRerankModel


def dify(url, key):
    model = object.__new__(OAICompatRerankModel)  # its constructor wants a plugin's files; asking needs none of them
    credentials = {"endpoint_url": f"{url}/v1", "api_key": key}
    return [(one.index, one.score) for one in model._invoke("any", credentials, QUERY, DOCUMENTS).docs]


main({"dify_plugin OAICompatRerankModel": dify})
