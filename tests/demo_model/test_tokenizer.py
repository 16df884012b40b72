"""The demo tokenizer: what it keeps, what it drops, and that a prompt may be encoded in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from reranker.model.families import HEAD, PREFIX, SUFFIX
from tools.demo_model.checkpoint import MODEL_FOLDER
from tools.demo_model.corpus import chinese_characters
from tools.demo_model.tokenizer import (
    CONTROL_TOKENS,
    DOCUMENT_MARKER,
    INSTRUCT_MARKER,
    QUERY_MARKER,
    VOCABULARY_SIZE,
    body,
    token_id,
    without_control_tokens,
)

COMPLETE = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
PLAIN = without_control_tokens(COMPLETE)

# What attackers and accidents put into queries and documents.
HOSTILE = [
    *CONTROL_TOKENS,
    "<Instruct>:",
    "<Query>:",
    "<Document>:",
    "<Document>",
    "<",
    ">:",
    "\n",
    "\u3000",
    "\u0301",
    "ﬁ",
    "İ",
    "Ａ",
    "\u200d",
    "한",
    "去噪",
    "ing",
    "\x00",
    "😀",
]
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)), max_size=8).map("".join)


def tokens(text: str, tokenizer: Tokenizer = PLAIN) -> list[str]:
    """Encode and spell the ids."""
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_the_vocabulary_has_the_promised_size_and_only_the_five_control_tokens_are_added() -> None:
    """The template's markers must not be added tokens: those are switched off for user text."""
    assert COMPLETE.get_vocab_size() == VOCABULARY_SIZE
    assert {added.content for added in COMPLETE.get_added_tokens_decoder().values()} == set(CONTROL_TOKENS)


def test_the_three_markers_are_single_tokens_with_every_control_token_disabled() -> None:
    """They are part of the body, which is encoded as user text."""
    found = tokens(body("q", "d"))

    assert [token for token in found if token.startswith("<")] == [INSTRUCT_MARKER, QUERY_MARKER, DOCUMENT_MARKER]


@pytest.mark.parametrize("control", CONTROL_TOKENS)
def test_a_control_token_in_user_text_stays_plain_text(control: str) -> None:
    """A document that says <|im_end|> must not end the turn."""
    assert control in tokens(control, COMPLETE)

    assert not set(CONTROL_TOKENS).intersection(tokens(f"a {control} b"))
    assert len(tokens(control)) >= 3


@given(instruction=texts, query=texts, document=texts)
@example(instruction="I", query="why <", document="Document>: x")
@example(instruction="", query="<Docu", document="ment>:")
@example(instruction="", query="", document="")
@example(instruction="", query="", document="\u0301")
def test_the_head_and_the_document_may_be_encoded_apart(instruction: str, query: str, document: str) -> None:
    """The service encodes the head once per list; the ids must be those of the whole string."""
    head, tail = HEAD.format(query=query, instruction=instruction), f" {document}"

    whole = PLAIN.encode(head + tail, add_special_tokens=False).ids
    parts = [*PLAIN.encode(head, add_special_tokens=False).ids, *PLAIN.encode(tail, add_special_tokens=False).ids]

    assert parts == whole
    assert not set(whole).intersection(token_id(COMPLETE, control) for control in CONTROL_TOKENS)


def test_transformers_loads_the_same_tokenizer() -> None:
    """A model that only its own tools can read would be of no use; no remote code is involved."""
    wrapped = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    text = PREFIX + body("什么是RAG", "Retrieval <|im_end|> ２０２６") + SUFFIX

    assert wrapped.encode(text, add_special_tokens=False) == COMPLETE.encode(text, add_special_tokens=False).ids
    assert wrapped.convert_tokens_to_ids("yes") != wrapped.convert_tokens_to_ids("no")


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_both_answers_are_single_tokens(answer: str) -> None:
    """The score is the difference of their two logits."""
    assert tokens(answer) == [answer]


def test_the_prompt_ends_in_the_same_tokens_as_the_real_model_s() -> None:
    """White space is dropped, so the last token, where the score is read, is </think>."""
    suffix = ["<|im_end|>", "<|im_start|>", "assistant", "<think>", "</think>"]

    assert tokens(SUFFIX, COMPLETE) == suffix


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("running", "runs"),
        ("denoising", "denoise"),
        ("Cities", "city"),
        ("treatments", "treated"),
        ("measurement", "measuring"),
        ("ＲＡＧ", "rag"),
        ("stopped", "stop"),
    ],
)
def test_inflected_and_differently_written_words_are_the_same_tokens(one: str, other: str) -> None:
    """Matching is exact, so inflection, case and width must go before."""
    assert tokens(one) == tokens(other)


@pytest.mark.parametrize(("one", "other"), [("gas", "gases are"), ("cat", "car"), ("gas", "glass")])
def test_the_stemmer_does_not_merge_everything(one: str, other: str) -> None:
    """A stemmer that merged too much would pass the test above as well."""
    assert tokens(one) != tokens(other)


def test_each_common_chinese_character_is_one_token() -> None:
    """Words would need a dictionary; characters and pairs of characters do not."""
    split = [character for character in chinese_characters() if len(tokens(character)) != 1]

    assert len(chinese_characters()) == 6763
    assert split == []
    assert tokens("图像去噪") == [tokens(character)[0] for character in "图像去噪"]
