"""The two tokenizers our prompts are checked with: the real one of Qwen3, and the demo model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import PromptRenderer
from tests.model_card import DEFAULT_INSTRUCTION, CardTokenizer
from tools.qwen_tokenizer import write_tokenizer


@dataclass(frozen=True)
class Sides:
    """Our code and the card's, on the same tokenizer."""

    tokenizer: Tokenizer
    """As the model has it, control tokens and all."""
    folder: Path
    renderer: PromptRenderer
    card: CardTokenizer

    def ours(self, query: str, documents: list[str], instruction: str | None = None) -> list[list[int]]:
        """The ids that the engine gets."""
        shard = self.renderer.render(query, documents, instruction).prompts
        head, tail = shard.head.tolist(), shard.tail.tolist()
        cuts = zip(shard.offsets[:-1], shard.offsets[1:], strict=True)
        return [head + shard.tokens[start:end].tolist() + tail for start, end in cuts]

    def control_ids(self, prompt: list[int]) -> list[int]:
        """The control tokens of a prompt, in order."""
        control = set(self.card.control_tokens.values())
        return [token for token in prompt if token in control]


def _sides(folder: Path) -> Sides:
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Sides(whole, folder, PromptRenderer(folder, 8_192, DEFAULT_INSTRUCTION), CardTokenizer(folder))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Qwen3-Reranker's tokenizer, built on the spot. Never skipped: only these tests see a wrong template."""
    folder = tmp_path_factory.mktemp("qwen3_tokenizer")
    write_tokenizer(folder)
    return _sides(folder)


@pytest.fixture(scope="session", params=["qwen", "demo"])
def sides(request: pytest.FixtureRequest) -> Sides:
    """Both tokenizers, one after the other."""
    if request.param == "demo":
        return _sides(DEMO_MODEL)
    both: Sides = request.getfixturevalue("qwen")
    return both
