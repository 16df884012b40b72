"""The ids that the model card's code gives with the real Qwen3 tokenizer, pinned in a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.prompts.conftest import Sides
from tests.prompts.golden import GOLDEN, PROMPTS, golden, serialize

CONTENT: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("prompt", CONTENT["prompts"], ids=lambda prompt: prompt["name"])
def test_our_ids_are_the_pinned_ones(qwen: Sides, prompt: dict[str, Any]) -> None:
    [ids] = qwen.ours(prompt["query"], [prompt["document"]], prompt["instruction"])
    assert ids == prompt["ids"]


def test_the_cards_code_still_gives_the_pinned_ids(qwen: Sides) -> None:
    """A new transformers or tokenizers that encodes differently must not pass unseen, nor an edit of the file."""
    assert serialize(golden(qwen.card)) == GOLDEN.read_text(encoding="utf-8")
    assert len(CONTENT["prompts"]) == len(PROMPTS) >= 12
