"""The engine's scores against plain Transformers on the same prompts, and against its own in other company."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.ranking.scoring import relevance_scores
from tests.model_card import CardReranker
from tests.pairs import LISTS

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of their own affairs

RENDERER = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction)
TO_TRANSFORMERS = 1e-4
TO_ITSELF = 1e-5
"""The same pair alone and in a list of 500, on a CPU in float32."""


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica; two threads on busy cores spin
    engine = VllmEngine(find_checkpoint(ModelConfig()), EngineConfig(), device="cpu")
    yield engine
    engine.shutdown()


async def _scores(engine: VllmEngine, query: str, documents: list[str]) -> list[float]:
    scores: list[float] = relevance_scores(await engine.score(RENDERER.render(query, documents).prompts)).tolist()
    return scores


async def test_every_score_is_that_of_transformers(engine: VllmEngine) -> None:
    """Both in float32: only the order of additions differs. Measured: 4.4e-5 at most, 8,192 tokens long."""
    card = CardReranker(DEMO_MODEL)
    differences = {
        (query[:20], document[:20], len(document)): abs(score - card.score(query, document))
        for query, documents in LISTS.items()
        for document, score in zip(documents, await _scores(engine, query, documents), strict=True)
    }
    assert len(differences) == 50
    assert {pair: difference for pair, difference in differences.items() if difference > TO_TRANSFORMERS} == {}


async def test_pair_alone_scores_like_in_a_list_of_500(engine: VllmEngine) -> None:
    """Neither the batch nor a cached prefix may show in a score. Measured: no difference in any bit."""
    query, documents = next(iter(LISTS.items()))
    filler = [f"Sentence {number} says nothing of use." for number in range(500 - len(documents))]
    together = (await _scores(engine, query, [*filler, *documents]))[-len(documents) :]
    alone = [(await _scores(engine, query, [document]))[0] for document in documents]
    np.testing.assert_allclose(together, alone, rtol=0, atol=TO_ITSELF)
