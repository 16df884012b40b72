"""Every family through real vLLM: prompted and scored as Transformers does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine
from reranker.model.checkpoint import DEMO_MODEL, Checkpoint, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.types import FloatArray
from tests.models import save_converted_demo, save_cross_encoder

pytestmark = pytest.mark.filterwarnings("ignore")
QUERY = "what is the capital of china?"
DOCUMENTS = ["beijing is the capital of china.", "gravity is a force.", "", "paris", "the capital " * 60]


def _find(name: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig(name=str(name), dtype="float32"))


async def _score(checkpoint: Checkpoint, documents: list[str]) -> FloatArray:
    renderer = PromptRenderer(
        checkpoint.folder, checkpoint.max_pair_tokens, "find passages", checkpoint.family.template
    )
    engine = VllmEngine(checkpoint, EngineConfig(), device="cpu")
    try:
        return await engine.score(renderer.render(QUERY, documents).prompts)
    finally:
        engine.shutdown()


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
async def test_cross_encoder_scores_as_in_transformers(kind: str, tmp_path: Path) -> None:
    """Special tokens, token types and positions: any of them wrong, and a random model's logits are far off."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    save_cross_encoder(kind, tmp_path)
    ours = await _score(_find(tmp_path), DOCUMENTS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    reference = []
    for document in DOCUMENTS:
        pair = tokenizer.backend_tokenizer.encode(QUERY, document)
        inputs = {"input_ids": torch.tensor([pair.ids])}
        if kind == "bert":
            inputs["token_type_ids"] = torch.tensor([pair.type_ids])
        with torch.no_grad():
            reference.append(model(**inputs).logits.item())
    assert np.std(reference) > 0.01  # the documents' logits differ, so agreement means something
    np.testing.assert_allclose(ours, reference, atol=1e-3)


async def test_converted_qwen3_scores_as_the_original(tmp_path: Path) -> None:
    save_converted_demo(tmp_path)
    converted = _find(tmp_path)
    assert converted.family.architecture == "Qwen3ForSequenceClassification"
    np.testing.assert_allclose(
        await _score(converted, DOCUMENTS), await _score(_find(DEMO_MODEL), DOCUMENTS), atol=2e-3
    )
