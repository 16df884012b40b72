"""Clients that take the scores by place, on paths that others share: one setting gives them every document.

Nothing in what they send tells them from others: OpenSearch's and Milvus's bodies are Cohere's and vLLM's own, and
whoever sends the same and gets what a rule leaves out would show it. So it is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reranker.config import ExclusionRule, RulesConfig
from reranker.ranking.ranker import Ranker
from tests.unit.doors import RankerBackend, door, visitor
from tests.unit.fleets import FakeFleet, by_length
from tests.unit.rankers import CONFIG, RENDERER
from tests.unit.test_strict_readers import CLIENTS

DOCUMENTS = ["capital", "RETRACTED capital", "capital " * 6, "capital " * 3]
BEST = 2
RULE = ExclusionRule(name="retracted", pattern="^RETRACTED")
KEYS = "{team: {key: team-key, complete: true}, other: other-key}"
SETTINGS = ("key", "service", "body", "URL")
LEFT_OUT: dict[str, dict[str, Any]] = {"a rule": {}, "top_n": {"top_n": 1}, "a threshold": {"score_threshold": 0.5}}
READERS: dict[str, tuple[str, dict[str, Any], Callable[[Any], dict[int, float]]]] = {
    "OpenSearch": ("/v1/rerank", {"model": "m", "return_documents": False}, CLIENTS["OpenSearch"].read),
    "Milvus vllm": ("/rerank", {}, CLIENTS["Milvus vllm"].read),
    "Milvus tei": ("/rerank", {"texts": DOCUMENTS, "truncate": True}, CLIENTS["Milvus tei"].read),
    "Milvus ali": (  # milvus, internal/util/function/models/ali: sorted by index, then by place
        "/api/v1/services/rerank/text-rerank/text-rerank",
        {"model": "m", "input": {"query": "q", "documents": DOCUMENTS}},
        lambda answer: CLIENTS["Milvus vllm"].read(answer["output"]),
    ),
    "Continue": ("/voyage/v1/rerank", {"model": "m"}, CLIENTS["Continue"].read),
    "LangChain4j": ("/v1/rerank", {"model": "m"}, CLIENTS["LangChain4j"].read),
    "Weaviate reranker-cohere": (
        "/v2/rerank",
        {"model": "m", "return_documents": False},
        CLIENTS["Weaviate reranker-cohere"].read,
    ),
}


async def _read(name: str, left_out: str, setting: str, complete: str = "true") -> dict[int, float]:
    path, fields, read = READERS[name]
    rules = RulesConfig(exclude=(RULE,), complete=setting == "service")
    backend = RankerBackend(Ranker(CONFIG.model_copy(update={"rules": rules}), RENDERER, FakeFleet(2, by_length)))
    body = {"query": "q", "documents": DOCUMENTS, **fields, **LEFT_OUT[left_out]}
    if "texts" in body:
        del body["documents"]
    if setting == "body":
        body["complete"] = True
    key = "team-key" if setting == "key" else "other-key"
    async with visitor(door(backend, keys=KEYS), {"authorization": f"Bearer {key}"}) as client:
        answer = await client.post(path, json=body, params={"complete": complete} if setting == "URL" else None)
    assert answer.status_code == 200, answer.text
    return read(answer.json())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize("name", READERS)
async def test_one_setting_makes_the_reader_right(name: str, left_out: str, setting: str) -> None:
    got = await _read(name, left_out, setting)
    assert got.keys() == set(range(len(DOCUMENTS)))
    assert max(got, key=got.__getitem__) == BEST


@pytest.mark.parametrize("name", READERS)
async def test_without_a_setting_what_a_rule_leaves_out_does_not_come_back(name: str) -> None:
    """The reader breaks, or takes another document for the best."""
    try:
        got = await _read(name, "a rule", "none")
    except IndexError:
        return
    assert max(got, key=got.__getitem__) != BEST


async def test_url_may_say_it_in_few_words_and_wrong_ones_are_named() -> None:
    assert len(await _read("Milvus vllm", "a rule", "URL", complete="")) == len(DOCUMENTS)
    assert len(await _read("Milvus vllm", "a rule", "URL", complete="false")) == len(DOCUMENTS) - 1
    two = {"query": "q", "documents": ["a", "b"], "top_n": 1}
    async with visitor(door(RankerBackend(Ranker(CONFIG, RENDERER, FakeFleet(1, by_length))))) as client:
        answer = await client.post("/rerank?complete=maybe", json=two)
        assert (answer.status_code, answer.json()["field"]) == (400, "complete")
        body = await client.post("/rerank?complete=true", json=two | {"complete": False})
        assert len(body.json()["results"]) == 1  # it says so of this request
        path = await client.post("/elastic/v1/rerank?complete=false", json=two)
        assert len(path.json()["results"]) == 2  # its reader would break
