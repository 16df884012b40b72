"""Every family through real vLLM: prompted and scored as its own library does it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine
from reranker.model.checkpoint import find_checkpoint
from reranker.model.families import FAMILIES
from reranker.model.prompt import PromptRenderer
from reranker.types import FloatArray
from tests.zoo import BY_NAME, DOCUMENTS, QUERY, save

pytestmark = pytest.mark.filterwarnings("ignore")


async def _score(folder: Path, instruction: str = "") -> FloatArray:
    chosen = {"instruction": instruction} if instruction else {}
    model = ModelConfig(name=str(folder), dtype="float32", **chosen)
    checkpoint = find_checkpoint(model)
    engine = VllmEngine(checkpoint, EngineConfig(), device="cpu")
    try:
        return await engine.score(PromptRenderer.of(checkpoint, model).render(QUERY, DOCUMENTS).prompts)
    finally:
        engine.shutdown()


def _reference(name: str, folder: Path) -> list[float]:
    """Sentence Transformers' logits; for pairs, Transformers' on the tokenizer's own encoding."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if BY_NAME[name].reads_more:
        return _reference_of_text_alone(name, folder)
    if BY_NAME[name].prompt is not None:
        encoder = CrossEncoder(str(folder), device="cpu")
        prompt = ModelConfig().instruction if "{instruction}" in (BY_NAME[name].prompt or "") else None
        pairs = [(QUERY, document) for document in DOCUMENTS]
        return [
            float(one) for one in encoder.predict(pairs, batch_size=1, prompt=prompt, activation_fn=torch.nn.Identity())
        ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for document in DOCUMENTS:
        pair = tokenizer.backend_tokenizer.encode(QUERY, document)
        inputs = {"input_ids": torch.tensor([pair.ids])}
        if name == "bert":
            inputs["token_type_ids"] = torch.tensor([pair.type_ids])
        with torch.no_grad():
            scores.append(model(**inputs).logits.item())
    return scores


def _reference_of_text_alone(name: str, folder: Path) -> list[float]:
    """Transformers' logits of a model that reads images too, which needs no processor of these for a text."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    family, tokenizer = BY_NAME[name], AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    no, yes = tokenizer.convert_tokens_to_ids(list(family.answer))
    scores = []
    for document in DOCUMENTS:
        text = (family.prompt or "").format(query=QUERY, document=document, instruction=family.instruction)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            last = model(input_ids=inputs["input_ids"]).logits[0, -1]
        scores.append((last[yes] - last[no]).item())
    return scores


@pytest.mark.parametrize("name", [one.name for one in FAMILIES])
async def test_tiny_checkpoint_scores_as_in_its_own_library(name: str, tmp_path: Path) -> None:
    """Template, answer, special tokens, types, positions: one of them wrong, and random logits are far off."""
    if BY_NAME[name].reads_more and find_spec("torchvision") is None:
        pytest.skip("vLLM's code for it needs torchvision, of torch's build: see tools/lock.sh and docs/models.md")
    save(name, tmp_path)
    ours, theirs = await _score(tmp_path, BY_NAME[name].instruction), _reference(name, tmp_path)
    assert np.std(theirs) > 0.01  # the documents' logits differ, so agreement means something
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
