"""Every field that a client can send is obeyed, or named in `X-Reranker-Ignored`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reranker.config import LimitsConfig
from reranker.dialects import DIALECTS, PATHS
from reranker.dialects.fields import NOT_OBEYED
from reranker.dialects.parse import parse
from reranker.record import RequestRecord
from reranker.types import RankedDocument, Ranking

_COHERE = {
    "return_documents": True, "rank_fields": ["title"], "max_chunks_per_doc": 2, "max_tokens_per_doc": 9, "priority": 1,
    "relevant_spans": {"mode": "enabled"}, "top_n": 1,
}  # fmt: skip
_JINA = {
    "top_n": 1, "return_documents": True, "return_embeddings": True, "truncate": False, "truncation": False,
    "max_doc_length": 9, "max_query_length": 9, "min_score": 0.5, "threshold": 0.5,
}  # fmt: skip
_VLLM = {
    "top_n": 1, "max_tokens_per_query": 9, "max_tokens_per_doc": 9, "instruction": "i", "priority": 1, "softmax": False,
    "chat_template_kwargs": {"instruction": "i"}, "truncate_prompt_tokens": 9, "truncation_side": "left",
    "mm_processor_kwargs": {"a": 1}, "use_activation": False, "activation": False, "add_special_tokens": False,
    "chat_template": "t", "media_io_kwargs": {"a": {}}, "cache_salt": "a", "padding": "max_length",
}  # fmt: skip
_TEI = {"raw_scores": True, "return_text": True, "truncate": False, "truncation_direction": "Left"}
_DASHSCOPE = {"top_n": 1, "return_documents": True, "instruct": "i"}
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Cohere": ("/v2/rerank", _COHERE),
    "Jina": ("/v1/rerank", _JINA),
    "vLLM": ("/v1/rerank", _VLLM),
    "vLLM's score": ("/score", _VLLM),
    "Voyage": ("/voyage/v1/rerank", {"top_k": 1, "return_documents": True, "truncation": False}),
    "TEI": ("/rerank", _TEI),
    "Infinity": ("/infinity/rerank", _TEI | {"top_n": 1, "return_documents": True, "modality": "image"}),
    "xinference": ("/v1/rerank", {"top_n": 1, "return_documents": True, "return_len": True, "kwargs": '{"a": 1}'}),
    "SiliconFlow": ("/v1/rerank", {"max_chunks_per_doc": 2, "overlap_tokens": 9, "instruction": "i", "top_n": 1}),
    "Contextual": ("/v1/rerank", {"metadata": ["a"], "instruction": "i", "top_n": 1}),
    "FlagEmbedding's servers": ("/v1/rerank", {"normalize": False, "max_length": 9, "filter": {"a": 1}}),
    "SGLang": ("/sglang/v1/rerank", _DASHSCOPE | {"use_activation": False}),
    "Elasticsearch": ("/elastic/v1/rerank", {"top_n": 1, "return_documents": True}),
    "Elasticsearch hugging_face": ("/elastic/list/rerank", {"top_n": 1, "return_documents": True}),
    "OpenSearch": ("/opensearch/v1/rerank", {"top_n": 1, "return_documents": True}),
    "Milvus vllm": ("/rerank", {"truncate_prompt_tokens": 9}),
    "Milvus voyageai": ("/milvus/voyage/v1/rerank", {"top_k": 1, "truncation": False}),
    "Milvus siliconflow": ("/milvus/v1/rerank", {"max_chunks_per_doc": 2, "overlap_tokens": 9}),
    "NVIDIA": ("/v1/ranking", {"truncate": "NONE", "top_n": 1, "top_k": 1}),
    "Mixedbread": (
        "/v1/reranking",
        {"top_k": 1, "return_input": True, "rank_fields": ["title"], "rewrite_query": True},
    ),
    "Pinecone": (
        "/pinecone/rerank",
        {"top_n": 1, "return_documents": False, "rank_fields": ["title"], "parameters": {"truncate": "NONE"}},
    ),
    "Pinecone on a shared path": ("/rerank", {"parameters": {"truncate": "NONE"}}),
    "DashScope": ("/rerank", {"parameters": _DASHSCOPE} | _DASHSCOPE),
    "DashScope, compatible": ("/v1/reranks", _DASHSCOPE),
    "DeepInfra": (
        "/v1/inference/{model:path}",
        {"instruction": "i", "webhook": "u", "top_n": 1, "service_tier": "priority"},
    ),
    "Fireworks": ("/v1/rerank", {"task": "i", "top_n": 1, "return_documents": True}),
    "NVIDIA's hosted": ("/v1/retrieval/{model:path}/reranking", {"truncate": "NONE", "top_k": 1}),
    "ZeroEntropy": ("/v1/models/rerank", {"top_n": 1, "latency": "slow"}),
    "LibreChat simple": ("/rerank", {"k": 1}),
    "Weaviate": ("/weaviate/rerank", {"top_n": 1}),
}
"""What each can send that changes a ranking or an answer, each with a value that does."""
_OF_THE_CLOCK = ("created", "e2e_latency", "inference_status")
SENT_BY = {
    "TEI": "texts",
    "LibreChat simple": "docs",
    "Mixedbread": "input",
    "NVIDIA": "passages",
    "NVIDIA's hosted": "passages",
}


def _parsed(path: str, fields: dict[str, Any], documents: str = "documents") -> Any:
    body = {"query": "q", documents: [{"text": "a", "title": "b"}], **fields}
    if path in ("/score", "/v1/inference/{model:path}"):
        body["queries"] = body.pop("query")
    call = parse(json.dumps(body).encode(), PATHS[path], LimitsConfig())
    ranking = Ranking((RankedDocument(0, 0.7, 0.8),))
    answer = call.write([ranking], "m", RequestRecord("id"))
    if isinstance(answer, dict):
        answer = {name: value for name, value in answer.items() if name not in _OF_THE_CLOCK}
    return call, (call.lists, answer)


@pytest.mark.parametrize(("client", "field"), [(client, field) for client in FIELDS for field in FIELDS[client][1]])
def test_every_field_of_every_client_is_obeyed_or_named(client: str, field: str) -> None:
    path, fields = FIELDS[client]
    documents = SENT_BY.get(client, "documents")
    _, without = _parsed(path, {}, documents)
    call, obeyed = _parsed(path, {field: fields[field]}, documents)
    assert (obeyed != without) != bool(call.ignored), (obeyed, call.ignored)


def test_every_field_that_only_some_dialects_obey_is_named_in_the_others() -> None:
    """But where the query and the documents are: a body without these is refused."""
    bodies: list[set[str]] = [set(dialect.body.model_fields) for dialect in DIALECTS]
    of_texts = {name for dialect in DIALECTS for name in dialect.lists} | {"query", "property", "input"}
    of_some = {name for body in bodies for name in body if not all(name in other for other in bodies)}
    assert of_some - of_texts <= NOT_OBEYED.keys()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("field", NOT_OBEYED)
def test_field_that_is_not_obeyed_is_named_and_what_happens_anyway_is_not(dialect: Any, field: str) -> None:
    [example, *_] = dialect.examples.values()
    example = {name: value for name, value in example.items() if name != field}
    for value in ("other", False, 7, [1], {"a": 1}):
        unfolded = field == "parameters" and dialect.unfold is not dict and isinstance(value, dict)
        if field not in dialect.body.model_fields and value not in NOT_OBEYED[field] and not unfolded:
            assert parse(json.dumps(example | {field: value}).encode(), dialect, LimitsConfig()).ignored == (field,)
    for same in (None, *NOT_OBEYED[field]):
        assert parse(json.dumps(example | {field: same}).encode(), dialect, LimitsConfig()).ignored == ()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "fields",
    [
        {"instruct": "find code"},
        {"instruction": "find code", "instruct": None},
        {"instruction": "  ", "instruct": "find code"},
        {"chat_template_kwargs": {"instruct": "find code"}},
        {"chat_template_kwargs": {"instruction": "find code"}},
    ],
)
def test_instruction_is_obeyed_under_every_name(dialect: Any, fields: dict[str, Any]) -> None:
    [example, *_] = dialect.examples.values()
    call = parse(json.dumps(example | fields).encode(), dialect, LimitsConfig())
    assert call.lists[0].instruction == "find code"
    assert not call.ignored
    blank = parse(json.dumps(example | {"instruction": " \n"}).encode(), dialect, LimitsConfig())
    assert blank.lists[0].instruction is None


def test_what_else_is_in_a_chat_templates_arguments_is_named() -> None:
    fields = {"query": "q", "documents": ["a"], "chat_template_kwargs": {"instruction": "find code", "system": "x"}}
    assert parse(json.dumps(fields).encode(), None, LimitsConfig()).ignored == ("chat_template_kwargs",)


def test_content_parts_of_vllm_are_a_document_each() -> None:
    parts = [{"type": "text", "text": text} for text in ("a", "b")]
    call = parse(json.dumps({"query": "q", "documents": {"content": parts}}).encode(), None, LimitsConfig())
    assert call.lists[0].documents == ("a", "b")
