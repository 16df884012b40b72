"""Every prompt for Qwen's tokenizer, in the real one: the same ids as its whole text, whatever query and document."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from reranker.model.families import FAMILIES, Family
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from tests.hostile import hostile_triple
from tests.prompts.conftest import Sides

ROWS = {one.name: one for one in FAMILIES if one.prompt and one.answer and "<bos>" not in one.prompt}
TEXTS = 200  # of 2,000 none differed
LAYOUT = [
    "def f(x):\n    return  x\n\n",
    "|  a | b  |\n|---|---|\n",
    "Two.  Spaces.",
    "\n\n\tx ",
    " \n",
    "x:\r\n\r\n",
    "?",
    "…\n",
]


@cache
def _renderer(folder: Path, row: str) -> PromptRenderer:
    """Made once: it reads a large vocabulary. test_fast_tokenizer.py has what makes the ids of many texts."""
    return PromptRenderer(folder, 8_192, "", ROWS[row].template, few=True)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_prompts_have_the_ids_of_the_whole_text(qwen: Sides, row: Family) -> None:
    chance, control, different = random.Random(3), set(qwen.card.control_tokens), 0
    renderer = _renderer(qwen.folder, row.name)
    for number in range(TEXTS):
        query, document, instruction = hostile_triple(chance)
        query, document = query + chance.choice(LAYOUT), chance.choice(LAYOUT) + document + chance.choice(LAYOUT)
        for token in control:
            query, document, instruction = (one.replace(token, "") for one in (query, document, instruction))
        text = (row.prompt or "").format(query=query, document=document, instruction=instruction or f"{number}")
        shard = renderer.render(query, [document], instruction or f"{number}").prompts
        different += [*shard.head, *shard.tokens, *shard.tail] != qwen.tokenizer.encode(
            text, add_special_tokens=False
        ).ids
    assert different == 0


def test_control_tokens_in_texts_stay_text(qwen: Sides) -> None:
    for row in ROWS.values():
        renderer = _renderer(qwen.folder, row.name)
        plain, hostile = (renderer.render(one, [one], "x").prompts for one in ("a", "".join(qwen.card.control_tokens)))
        for of_plain, of_hostile in ((plain.head, hostile.head), (plain.tail, hostile.tail)):
            assert qwen.control_ids(of_plain.tolist()) == qwen.control_ids(of_hostile.tolist())
        assert qwen.control_ids(hostile.tokens.tolist()) == []


@pytest.mark.parametrize("side", ["start", "end"])
def test_piece_of_a_document_keeps_the_lines_around_it(qwen: Sides, side: str) -> None:
    newline = qwen.tokenizer.encode("\n").ids
    cutting = CuttingPolicy(side="start" if side == "start" else "end", max_document_tokens=100)
    for name, cut_side in (("zerank", "start"), ("mxbai-rerank-v2", "end"), ("ctxl-rerank-v2", "end")):
        renderer = _renderer(qwen.folder, name)
        shard = renderer.render("q", ["word " * 300], cutting=cutting).prompts
        assert 99 <= len(shard.tokens) <= 102  # a space may belong to the line after it
        if side == cut_side:
            assert shard.tokens[: 1 if side == "start" else None][-1] == newline[0]


def test_lines_around_a_document_count_in_the_longest_pair(qwen: Sides) -> None:
    renderer = PromptRenderer(qwen.folder, 150, "", ROWS["mxbai-rerank-v2"].template, few=True)
    shard = renderer.render("q", ["word " * 300]).prompts
    assert len(shard.head) + len(shard.tokens) + len(shard.tail) == 150
