"""What other services' clients do with our answers, as their sources have it: none breaks, all get the right scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from reranker.config import ExclusionRule, LimitsConfig, RulesConfig
from reranker.dialects import PATHS
from reranker.dialects.parse import parse
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import Caller, EngineScores, Ranking
from tests.unit.fleets import Call, FakeFleet, by_length, scores
from tests.unit.rankers import CONFIG, RENDERER, rank, require_idle

Answer = Any  # JSON
Scores = dict[int, float]


def _cohere_of_elasticsearch(answer: Answer) -> Scores:
    """CohereRankedResponseEntity (elastic/elasticsearch, x-pack/plugin/inference): unknown fields are errors."""
    for one in answer["results"]:
        assert set(one) <= {"index", "relevance_score", "document"}
        assert type(one["relevance_score"]) is float
    return {one["index"]: one["relevance_score"] for one in answer["results"]}


def _hugging_face_of_elasticsearch(answer: Answer) -> Scores:
    """HuggingFaceRerankResponseEntity, in the same place."""
    assert isinstance(answer, list)
    assert all(set(one) <= {"index", "score", "text"} and type(one["score"]) is float for one in answer)
    return {one["index"]: one["score"] for one in answer}


def _opensearch(answer: Answer) -> Scores:
    """CohereRerankPostProcessFunction (opensearch-project/ml-commons): as many places as there are results."""
    places: list[Any] = [None] * len(answer["results"])
    for one in answer["results"]:
        assert type(one["index"]) is int
        assert type(one["relevance_score"]) is float
        places[one["index"]] = one["relevance_score"]
    return dict(enumerate(places))


def _places(rows: Sequence[Any], score: str) -> Scores:
    """Read as many places as there are rows, as programs in Go and Java do: an index beyond them is a crash."""
    places: list[Any] = [None] * len(rows)
    for one in rows:
        places[one["index"]] = one[score]
    return dict(enumerate(places))


def _by_place(rows: Sequence[Any], score: str) -> Scores:
    return {place: one[score] for place, one in enumerate(sorted(rows, key=lambda one: one["index"]))}


def _by_index(rows: Sequence[Any], score: str = "relevance_score") -> Scores:
    scores = [one[score] for one in rows]
    assert scores == sorted(scores, reverse=True)  # they take the first for the best
    return {one["index"]: one[score] for one in rows}


def _langchain4j(answer: Answer) -> Scores:
    """CohereScoringModel.scoreAll (langchain4j-cohere): sorted by index; a null among these is a crash."""
    assert type(answer["meta"]["billed_units"]["search_units"]) is int
    return _by_place(answer["results"], "relevance_score")


def _pinecone(answer: Answer) -> Scores:
    """RerankResult (pinecone, models/inference/rerank.py): msgspec, which takes no other type."""
    assert type(answer["model"]) is str
    assert type(answer["usage"]["rerank_units"]) is int
    for one in answer["data"]:
        assert type(one["score"]) is float
        assert type(one["document"]) is dict
    return _by_index(answer["data"], "score")


def _mixedbread(answer: Answer) -> Scores:
    """RerankResponse (mixedbread, types/rerank_response.py)."""
    assert answer["object"] == "list"
    assert (type(answer["top_k"]), type(answer["return_input"])) == (int, bool)
    assert all(one["object"] == "rank_result" for one in answer["data"])
    assert type(answer["usage"]["prompt_tokens"]) is int
    return _by_index(answer["data"], "score")


def _zeroentropy(answer: Answer) -> Scores:
    """ModelRerankResponse (zeroentropy, types/model_rerank_response.py)."""
    assert answer["actual_latency_mode"] in ("fast", "slow")
    assert type(answer["total_bytes"]) is type(answer["total_tokens"]) is int
    assert type(answer["e2e_latency"]) is type(answer["inference_latency"]) is float
    return _by_index(answer["results"])


def _deepinfra(answer: Answer) -> Scores:
    """DeepinfraRerankConfig (litellm, llms/deepinfra/rerank/transformation.py): by position."""
    assert type(answer["input_tokens"]) is type(answer["inference_status"]["runtime_ms"]) is int
    return dict(enumerate(answer["scores"]))


def _simple_of_librechat(answer: Answer) -> Scores:
    """LibreChat's `simple` knows a document by its text; the first of equal ones has the first place."""
    places = {text: [i for i, one in enumerate(SENT) if one == text] for text in dict.fromkeys(SENT)}
    return {places[one["text"]].pop(0): one["score"] for one in answer}


SENT: list[str] = []
"""The documents of the request that is answered."""


def _nvidia(answer: Answer) -> Scores:
    """langchain-nvidia, NVIDIARerank: in the order given."""
    return _by_index(answer["rankings"], "logit")


@dataclass(frozen=True)
class Client:
    """How one asks and reads. `every`: it needs every document back, and its path or its key says so."""

    path: str
    body: Callable[[list[str]], dict[str, Any]]
    read: Callable[[Answer], Scores]
    every: str = ""
    log_odds: bool = False


def _plain(documents: list[str]) -> dict[str, Any]:
    return {"model": "m", "query": "q", "documents": documents}


def _results(answer: Answer) -> Scores:
    return _by_index(answer["results"])


CLIENTS = {
    "Elasticsearch openshift_ai": Client(
        "/elastic/v1/rerank", lambda d: _plain(d) | {"return_documents": True}, _cohere_of_elasticsearch, "path"
    ),
    "Elasticsearch cohere": Client(
        "/v2/rerank", lambda d: _plain(d) | {"return_documents": True}, _cohere_of_elasticsearch
    ),
    "Elasticsearch hugging_face": Client(
        "/elastic/list/rerank",
        lambda d: {"query": "q", "documents": d, "return_documents": True},
        _hugging_face_of_elasticsearch,
        "path",
    ),
    "Elasticsearch hugging_face, not all": Client(
        "/list/rerank", lambda d: {"query": "q", "documents": d}, _hugging_face_of_elasticsearch
    ),
    "OpenSearch": Client("/opensearch/v1/rerank", _plain, _opensearch, "path"),
    "OpenSearch, by its key": Client("/v1/rerank", _plain, _opensearch, "key"),
    "Milvus vllm": Client(  # milvus, internal/util/function/models/vllm: it has no path of its own
        "/rerank", lambda d: {"query": "q", "documents": d}, lambda a: _by_place(a["results"], "relevance_score"), "key"
    ),
    "Milvus siliconflow": Client(  # milvus, internal/util/function/rerank
        "/milvus/v1/rerank", _plain, lambda a: _by_place(a["results"], "relevance_score"), "path"
    ),
    "Milvus voyageai": Client(
        "/milvus/voyage/v1/rerank", _plain, lambda a: _by_place(a["data"], "relevance_score"), "path"
    ),
    "Milvus tei": Client("/rerank", lambda d: {"query": "q", "texts": d}, lambda a: _by_place(a, "score"), "key"),
    "TEI": Client("/rerank", lambda d: {"query": "q", "texts": d}, lambda a: _by_index(a, "score")),
    "Continue": Client(  # continuedev/continue, core/llm/index.ts
        "/continue/v1/rerank", _plain, lambda a: _by_place(a["data"], "relevance_score"), "path"
    ),
    "LangChain4j": Client("/langchain4j/v1/rerank", _plain, _langchain4j, "path"),
    "Weaviate reranker-cohere": Client(  # weaviate, modules/reranker-cohere/clients/ranker.go
        "/weaviate/v2/rerank", _plain, lambda a: _places(a["results"], "relevance_score"), "path"
    ),
    "Weaviate reranker-transformers": Client(
        "/rerank",
        lambda d: {"query": "q", "documents": d, "property": "text"},
        lambda a: {place: one["score"] for place, one in enumerate(a["scores"])},
        "path",
    ),
    "NVIDIA": Client(
        "/v1/ranking",
        lambda d: {"query": {"text": "q"}, "passages": [{"text": one} for one in d]},
        _nvidia,
        log_odds=True,
    ),
    "NVIDIA's hosted": Client(
        "/v1/retrieval/{model:path}/reranking",
        lambda d: {"query": {"text": "q"}, "passages": [{"text": one} for one in d], "top_k": len(d)},
        _nvidia,
        log_odds=True,
    ),
    "DashScope": Client(
        "/rerank",
        lambda d: {"input": {"query": "q", "documents": d}, "parameters": {"return_documents": False}},
        lambda a: _by_index(a["output"]["results"]),
    ),
    "DashScope, compatible": Client("/v1/reranks", _plain, _results),
    "SGLang": Client("/sglang/v1/rerank", _plain, lambda a: _by_index(a, "score")),
    "Mixedbread": Client("/v1/reranking", lambda d: {"query": "q", "input": d}, _mixedbread),
    "Pinecone": Client(
        "/pinecone/rerank", lambda d: {"query": "q", "documents": [{"text": one} for one in d]}, _pinecone
    ),
    "ZeroEntropy": Client("/v1/models/rerank", _plain, _zeroentropy),
    "DeepInfra": Client(
        "/v1/inference/{model:path}", lambda d: {"queries": ["q"] * len(d), "documents": d}, _deepinfra, "path"
    ),
    "llama.cpp": Client("/reranking", _plain, _results),
    "LibreChat jina": Client("/v1/rerank", lambda d: _plain(d) | {"return_documents": True}, _results),
    "LibreChat simple": Client("/rerank", lambda d: {"query": "q", "docs": d}, _simple_of_librechat),
    "vLLM's score": Client(
        "/score", lambda d: {"text_1": "q", "text_2": d}, lambda a: {one["index"]: one["score"] for one in a["data"]}
    ),
}
FIVE = ["capital " * 3, "RETRACTED capital", "capital " * 6, "capital", "capital " * 4]
LISTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": (FIVE, {}),
    "one cut": (["capital " * 500, *FIVE[2:]], {}),
    "one in windows": (["capital " * 500, *FIVE[2:]], {"long_documents": "windows"}),
    "a rule": (FIVE, {}),
    "top_n": (FIVE, {"top_n": 1}),
    "threshold": (FIVE, {"score_threshold": 0.5}),
    "partial": (FIVE, {"allow_partial": True}),
    "one": (FIVE[:1], {}),
    "ties": (["capital a", "capital b", "capital c", "capital a"], {}),
    "a thousand": (["capital " * (i * 7 % 20 + 1) + str(i) for i in range(1_000)], {}),
}
RULES = RulesConfig(exclude=(ExclusionRule(name="retracted", pattern="^RETRACTED"),))


async def _ranking(body: bytes, path: str, act: Any = by_length, *, rules: bool = False, every: bool = False) -> Any:
    """The answer as a client gets it, and the ranking."""
    fleet = FakeFleet(2, act)
    config = CONFIG.model_copy(update={"rules": RULES if rules else RulesConfig()})
    ranker = Ranker(config, RENDERER, fleet)
    call = parse(body, PATHS[path], LimitsConfig())
    done = await rank(ranker, call.lists[0], Caller("c", complete=every))
    require_idle(ranker, fleet)
    return json.loads(json.dumps(call.write([done.ranking], "m", RequestRecord("id")))), done.ranking


async def _without_the_first(call: Call) -> EngineScores:
    return scores(*(await by_length(call)).logits.tolist(), missing=[0])


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("name", CLIENTS)
async def test_client_ends_with_the_right_scores_whatever_is_left_out(name: str, kind: str) -> None:
    client, (documents, fields) = CLIENTS[name], LISTS[kind]
    whole: Ranking
    _, whole = await _ranking(
        json.dumps({"query": "q", "documents": documents, **fields} | _ALL).encode(), "/v1/rerank"
    )
    right = {one.index: one.log_odds if client.log_odds else one.relevance_score for one in whole.results}
    assert right.keys() == set(range(len(documents)))
    body = json.dumps(client.body(documents) | fields).encode()
    act = _without_the_first if kind == "partial" else by_length
    answer, ranking = await _ranking(body, client.path, act, rules=kind == "a rule", every=client.every == "key")
    SENT[:] = documents
    got = client.read(answer)
    missing = set(ranking.unscored)
    assert {index: score for index, score in got.items() if index not in missing} == {
        index: right[index] for index in got.keys() - missing
    }
    if client.every:
        assert got.keys() == right.keys()
        assert all(got[index] == 0.0 for index in missing)
    scored = right.keys() - missing
    assert max(got.keys() - missing, key=got.__getitem__) == max(scored, key=right.__getitem__)
    assert bool(missing) == (kind == "partial")


_ALL = {"score_threshold": None, "top_n": None, "allow_partial": None}


async def test_complete_answer_has_all_and_says_what_would_have_been_left_out() -> None:
    fields = {"query": "q", "documents": FIVE, "top_n": 2, "complete": True, "allow_partial": True}
    answer, _ = await _ranking(json.dumps(fields).encode(), "/v1/rerank", _without_the_first, rules=True)
    order = [one["index"] for one in answer["results"]]
    left_out = [one["index"] for name in ("cut_off", "excluded", "unscored") for one in answer[name]]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order[2:] == left_out
    assert answer["excluded"] == [{"index": 1, "rule": "retracted"}]
    assert answer["results"][-1]["relevance_score"] == 0.0
    fields |= {"complete": False}  # as a request may say where the key says otherwise
    answer, _ = await _ranking(json.dumps(fields).encode(), "/v1/rerank", rules=True, every=True)
    assert len(answer["results"]) == 2
    assert "cut_off" not in answer
