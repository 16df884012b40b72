"""The prompt decides the score: ids must equal the reference's, whatever the text, and only documents are ever cut."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from reranker.config import ModelConfig
from reranker.errors import QueryTooLongError, UnsupportedModelError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.families import PromptTemplate
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.model.tokenizer import EncodedTexts
from reranker.types import RenderedList

INSTRUCTION = ModelConfig().instruction
RENDERER = PromptRenderer(DEMO_MODEL, 512, INSTRUCTION)
SMALL = PromptRenderer(DEMO_MODEL, 112, INSTRUCTION)
WITH_CONTROL = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
WITHOUT_CONTROL = Tokenizer.from_str(
    json.dumps({**json.loads((DEMO_MODEL / "tokenizer.json").read_text()), "added_tokens": []})
)
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "<|im_end|>",
                "<|im_start|>",
                "<think>",
                "</think>",
                "<Query>:",
                "<Document>:",
                "\n",
                " ",
                "\u0301",
                "é",
                "中",
            ]
        )
    ).map("".join),
)


def _reference(instruction: str, query: str, document: str) -> list[int]:
    """Prefix, body and suffix tokens, as the model card's Transformers code makes them; the body as one string."""
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    ids: list[int] = WITH_CONTROL.encode(prefix, add_special_tokens=False).ids
    ids = ids + WITHOUT_CONTROL.encode(body, add_special_tokens=False).ids
    return ids + WITH_CONTROL.encode(suffix, add_special_tokens=False).ids


def _prompts(rendered: RenderedList) -> list[list[int]]:
    shard = rendered.prompts
    return [
        [*shard.head, *shard.tokens[shard.offsets[i] : shard.offsets[i + 1]], *shard.tail] for i in range(len(shard))
    ]


@given(query=HOSTILE, documents=st.lists(HOSTILE, min_size=1, max_size=4), instruction=HOSTILE)
def test_pieces_have_the_ids_of_the_whole(query: str, documents: list[str], instruction: str) -> None:
    rendered = RENDERER.render(query, documents, instruction or None)
    assert _prompts(rendered) == [_reference(instruction or INSTRUCTION, query, document) for document in documents]


@given(query=HOSTILE, document=HOSTILE)
def test_no_text_becomes_a_control_token(query: str, document: str) -> None:
    """The template has two <|im_start|>, two <|im_end|>, one <think>, one </think>; a prompt never has more."""
    [prompt] = _prompts(RENDERER.render(query, [document]))
    for token, times in (("<|im_start|>", 3), ("<|im_end|>", 2), ("<think>", 1), ("</think>", 1)):
        token_id = WITH_CONTROL.token_to_id(token)
        assert token_id is not None
        assert prompt.count(token_id) == times


def test_long_document_is_cut_and_nothing_else_is() -> None:
    short, long = "Beijing is the capital.", "Beijing is the capital. " * 500
    rendered = RENDERER.render("What is the capital of China?", [short, long])
    whole, cut = _prompts(rendered)
    shard = rendered.prompts
    assert rendered.truncated == {1}
    assert len(cut) == 512
    assert cut[: len(shard.head)] == whole[: len(shard.head)]
    assert cut[-len(shard.tail) :] == whole[-len(shard.tail) :] == shard.tail.tolist()


def test_document_that_just_fits_is_not_cut() -> None:
    head_and_tail = len(_prompts(RENDERER.render("capital", [""]))[0])
    exactly = "a " * (512 - head_and_tail)
    rendered = RENDERER.render("capital", [exactly, exactly + "a"])
    assert [len(prompt) for prompt in _prompts(rendered)] == [512, 512]
    assert rendered.truncated == {1}


def test_query_that_leaves_no_room_is_the_clients_error() -> None:
    with pytest.raises(QueryTooLongError) as caught:
        RENDERER.render("word " * 600, ["document"])
    assert caught.value.limit == 512
    assert caught.value.tokens > 600


def test_tokenizer_without_the_templates_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    think = next(token for token in tokenizer["added_tokens"] if token["content"] == "<think>")
    tokenizer["added_tokens"].remove(think)
    tokenizer["model"]["vocab"].pop("<think>", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModelError, match="<think>"):
        PromptRenderer(tmp_path, 512, INSTRUCTION)


LONG = st.lists(
    st.sampled_from(["word ", "长文档", "7", "!", "=" * 40, f"{' ' * 20}x", "a\n", "e\u0301", "😀", "it's ", "\u200d"]),
    min_size=1,
)
POLICIES = st.builds(
    CuttingPolicy,
    mode=st.sampled_from(["truncate", "windows"]),
    side=st.sampled_from(["end", "start"]),
    max_document_tokens=st.none() | st.integers(1, 30) | st.integers(1, 3_000),
    window_tokens=st.none() | st.integers(1, 40),
    overlap_tokens=st.integers(0, 10),
    max_windows=st.integers(1, 3),
)


@given(parts=LONG, times=st.integers(1, 400), cutting=POLICIES)
def test_unread_text_changes_no_prompt(parts: list[str], times: int, cutting: CuttingPolicy) -> None:
    """A long text is encoded only as far as it can be used; the prompts are those of all of it."""
    document = "".join(parts) * times
    rendered = SMALL.render("capital", [document], cutting=cutting)
    shard = rendered.prompts
    ids = WITHOUT_CONTROL.encode(f" {document}", add_special_tokens=False).ids
    cut = cutting.cut(len(ids), 112 - len(shard.head) - len(shard.tail))
    found = [shard.tokens[shard.offsets[i] : shard.offsets[i + 1]].tolist() for i in range(len(shard))]
    assert found == [ids[start:end] for start, end in cut.spans]
    assert rendered.truncated == ({0} if cut.truncated else set())


@given(parts=LONG, times=st.integers(1, 400), cutting=POLICIES)
def test_what_is_read_of_a_document_is_told_in_its_characters(
    parts: list[str], times: int, cutting: CuttingPolicy
) -> None:
    document = "".join(parts) * times
    encoded = WITHOUT_CONTROL.encode(f" {document}", add_special_tokens=False)
    head, tail = SMALL._around("capital", INSTRUCTION)
    cut = cutting.cut(len(encoded.ids), 112 - len(head) - len(tail))
    first, last = encoded.offsets[cut.spans[0][0]], encoded.offsets[cut.spans[-1][1] - 1]
    [readable] = SMALL.readable([document], cutting)
    start, end = SMALL.part_read("capital", readable, INSTRUCTION, cutting)
    unread = len(document) - len(readable) if cutting.reach(1)[1] == "start" else 0
    assert (start + unread, end + unread) == (max(0, first[0] - 1), last[1] - 1)


@pytest.mark.parametrize("text", [" ", "!", "a", "😀", "\u0301", "7", "word "])
@pytest.mark.parametrize(
    "cutting",
    [
        CuttingPolicy(),
        CuttingPolicy(side="start"),
        CuttingPolicy(max_document_tokens=10**12),
        CuttingPolicy(side="start", max_document_tokens=10**12),
        CuttingPolicy("windows", max_windows=2),
        CuttingPolicy("windows", max_windows=2, max_document_tokens=10**12),
    ],
)
def test_encoding_has_a_bound_whatever_the_text(
    text: str, cutting: CuttingPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = PromptTemplate.documents

    def counted(self: PromptTemplate, documents: Sequence[str]) -> EncodedTexts:
        encoded.extend(map(len, documents))
        return encode(self, documents)

    monkeypatch.setattr(PromptTemplate, "documents", counted)
    rendered = RENDERER.render("query", [text * 2_000_000], cutting=cutting)
    assert rendered.truncated == {0}
    assert sum(encoded) <= 2 * 72 * (512 + 64)
    with pytest.raises(QueryTooLongError, match="or more"):
        RENDERER.render(text * 2_000_000, ["document"])
