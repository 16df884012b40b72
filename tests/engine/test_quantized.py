"""The demo model in INT8 through real vLLM on a CPU: the ranking holds, and by how much the scores move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking.scoring import relevance_scores
from tests.integration.test_ranking import CASES
from tests.models import save_int8_demo

pytestmark = pytest.mark.filterwarnings("ignore")


async def _score_cases(folder: Path) -> list[NDArray[np.float64]]:
    checkpoint = find_checkpoint(ModelConfig(name=str(folder), dtype="float32"))
    renderer = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction)
    engine = VllmEngine(checkpoint, EngineConfig(), device="cpu")
    try:
        return [
            relevance_scores(await engine.score(renderer.render(query, documents).prompts))
            for query, documents in CASES.values()
        ]
    finally:
        engine.shutdown()


async def test_ranking_holds_in_int8(tmp_path: Path) -> None:
    """W8A8: weights and activations. Measured: the scores move by 0.055 at worst and by 0.007 on average."""
    save_int8_demo(tmp_path)
    in_float, in_int8 = await _score_cases(DEMO_MODEL), await _score_cases(tmp_path)
    moved = np.abs(np.concatenate(in_float) - np.concatenate(in_int8))
    assert moved.max() > 1e-4  # else nothing was computed in INT8
    assert moved.max() < 0.1, f"max {moved.max():.4f}"
    assert moved.mean() < 0.02, f"mean {moved.mean():.4f}"
    for exact, scores in zip(in_float, in_int8, strict=True):
        assert (scores[0] - scores[1:] > 0.9 * (exact[0] - exact[1:])).all()  # relevant first, and as clearly
