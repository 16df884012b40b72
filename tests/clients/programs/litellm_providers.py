"""LiteLLM, by the names of its providers."""

import litellm
from _report import DOCUMENTS, QUERY, main

litellm.suppress_debug_info = True


def _pairs(answer):
    return [(one["index"], one["relevance_score"]) for one in answer.results]


def provider(name, base="", **more):
    def ask(url, key):
        return _pairs(
            litellm.rerank(
                model=f"{name}/any", query=QUERY, documents=DOCUMENTS, api_base=url + base, api_key=key, **more
            )
        )

    return ask


def provider_async(name, base="", **more):
    async def ask(url, key):
        return _pairs(
            await litellm.arerank(
                model=f"{name}/any", query=QUERY, documents=DOCUMENTS, api_base=url + base, api_key=key, **more
            )
        )

    return ask


def deepinfra(url, key):
    answer = provider("deepinfra", "/v1")(url, key)
    assert [index for index, _ in answer] == list(range(len(DOCUMENTS)))  # it reads scores by position
    return sorted(answer, key=lambda pair: -pair[1])


def nvidia_nim(url, key):
    answer = provider("nvidia_nim")(url, key)
    return [(index, 1 / (1 + 2.718281828459045**-logit)) for index, logit in answer]


PROVIDERS = {
    "cohere": "",
    "jina_ai": "",
    "hosted_vllm": "",
    "huggingface": "",
    "infinity": "/infinity",
    "voyage": "/voyage",
    "dashscope": "/v1",
}
main(
    {f"litellm {name}/": provider(name, base) for name, base in PROVIDERS.items()}
    | {f"litellm {name}/, async": provider_async(name, base) for name, base in PROVIDERS.items()}
    | {
        "litellm deepinfra/": deepinfra,
        "litellm nvidia_nim/": nvidia_nim,
        "litellm cohere/ at /v1/rerank, top_n": provider("cohere", "/v1/rerank", top_n=2),
        "litellm hosted_vllm/ at /v1, top_n": provider("hosted_vllm", "/v1", top_n=2),
        "litellm voyage/ with top_n at /": provider("voyage", "", top_n=2),
        "litellm infinity/ without documents at /": provider("infinity", "", return_documents=False),
    }
)
