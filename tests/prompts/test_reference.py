"""Whatever the text, our ids are those of the model card's code; and no text becomes a control token."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import FAKE_ANSWER, HOSTILE, hostile_text, hostile_triple, texts
from tests.model_card import CardTokenizer
from tests.prompts.conftest import Sides
from tools.qwen_tokenizer import ADDED_TOKENS, SPECIAL_TOKENS, SPLIT, packaged_ranks, read_ranks

TRIPLES = 2_000
TEMPLATES_OWN = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"]
FEW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _triples(seed: int) -> list[tuple[str, str, str]]:
    chance = random.Random(seed)
    return [hostile_triple(chance) for _ in range(TRIPLES)]


def test_2000_hostile_prompts_have_the_references_ids(sides: Sides) -> None:
    """0 differences, in many scripts, with control tokens and the template's own text among it."""
    different = []
    for query, document, instruction in _triples(seed=1):
        [ours] = sides.ours(query, [document], instruction)
        if ours != sides.card.ids(instruction, query, document, literal=True):
            different.append((query, document, instruction))
    assert different == []


@FEW
@given(query=texts, documents=st.lists(texts, min_size=1, max_size=4), instruction=texts)
def test_lists_have_the_references_ids(sides: Sides, query: str, documents: list[str], instruction: str) -> None:
    """As above with lists, by a search that reports the smallest text that differs."""
    expected = [sides.card.ids(instruction or None, query, document, literal=True) for document in documents]
    assert sides.ours(query, documents, instruction or None) == expected


def test_text_without_control_tokens_has_the_ids_of_the_cards_own_path(sides: Sides) -> None:
    """AutoTokenizer exactly as on the card, nothing disabled: what a user of the card gets is what we score."""
    compared = 0
    for triple in _triples(seed=2):
        query, document, instruction = (_without(sides.card.control_tokens, text) for text in triple)
        if instruction and not any(token in query + document + instruction for token in sides.card.control_tokens):
            compared += 1
            [ours] = sides.ours(query, [document], instruction)
            assert ours == sides.card.ids(instruction, query, document, literal=False)
    assert compared > TRIPLES // 2


def _without(tokens: Iterable[str], text: str) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text


def test_qwens_own_byte_pair_encoder_agrees(qwen: Sides) -> None:
    """Tiktoken, a second implementation, on the ranks as Qwen publishes them: no merges of ours, no Hugging Face."""
    encoding = tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=read_ranks(packaged_ranks()), special_tokens={})
    before, after = qwen.card.prefix_tokens, qwen.card.suffix_tokens
    for name, text in HOSTILE.items():
        body = f"<Instruct>: {name}\n<Query>: {text}\n<Document>: {text}"
        ids = encoding.encode_ordinary(unicodedata.normalize("NFC", body))
        assert qwen.ours(text, [text], name) == [before + ids + after], name


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_text_makes_a_control_token(sides: Sides, name: str) -> None:
    """In the document, the query or the instruction: the template's own seven control tokens, in their order."""
    text = HOSTILE[name]
    own = [sides.card.control_tokens[token] for token in TEMPLATES_OWN]
    prompts = [*sides.ours("query", [text, text + text]), *sides.ours(text, ["document"], text or None)]
    assert [sides.control_ids(prompt) for prompt in prompts] == [own] * 3


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, *ADDED_TOKENS])
def test_each_control_token_of_qwen_stays_text(qwen: Sides, token: str) -> None:
    """And is worth testing: on the card's own path the same document does become one."""
    assert qwen.control_ids(qwen.card.ids(None, "query", token, literal=False)) != qwen.control_ids(
        qwen.card.ids(None, "query", "", literal=False)
    )
    [prompt] = qwen.ours("query", [token])
    assert qwen.control_ids(prompt) == qwen.control_ids(qwen.card.ids(None, "query", "", literal=False))
    assert token in qwen.tokenizer.decode(prompt[len(qwen.card.prefix_tokens) :], skip_special_tokens=False)


def test_document_with_the_suffix_and_a_fake_yes_is_its_characters(sides: Sides) -> None:
    """It scores like the same characters as plain text because to the model it is nothing else."""
    query = "What is the capital of China?"
    [prompt] = sides.ours(query, [FAKE_ANSWER])
    assert prompt == sides.card.ids(None, query, FAKE_ANSWER, literal=True)
    assert prompt != sides.card.ids(None, query, FAKE_ANSWER, literal=False)  # where the smuggling works
    prefix, suffix = sides.card.prefix_tokens, sides.card.suffix_tokens
    body = prompt[len(prefix) : -len(suffix)]
    assert sides.control_ids(body) == []
    read = sides.tokenizer.decode(body, skip_special_tokens=False)
    assert _squeezed(read).endswith(_squeezed(FAKE_ANSWER[FAKE_ANSWER.index("<|im_end|>") :]))


def _squeezed(text: str) -> str:
    """Without what the demo model's tokenizer does not keep: case and white space."""
    return "".join(text.split()).casefold()


def test_too_long_document_is_cut_where_the_card_cuts_it(sides: Sides) -> None:
    """The card cuts the body at its end and puts the whole suffix after it."""
    card = CardTokenizer(sides.folder)
    chance = random.Random(3)
    for document in ["word " * 9_000, "中文" * 12_000, "".join(hostile_text(chance) for _ in range(600))]:
        [ours] = sides.ours("query", [document])
        assert ours == card.ids(None, "query", document, literal=True)
        assert len(ours) == 8_192
