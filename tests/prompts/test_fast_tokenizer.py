"""fastokens' ids are the reference's, for every text; a tokenizer unlike those compared here is left to the reference.

RERANKER_TEXTS=100000 compares as many texts with each tokenizer; the rule is that not one differs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fastokens
import numpy as np
import pytest
from hypothesis import given
from tokenizers import Tokenizer

from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from reranker.model.tokenizer import BatchTokenizer
from tests.hostile import HOSTILE, hostile_text, texts
from tests.model_card import DEFAULT_INSTRUCTION
from tests.prompts.conftest import Sides
from tools.qwen_tokenizer import ADDED_TOKENS

TEXTS = int(os.environ.get("RERANKER_TEXTS", "3000"))
GPT2: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.fixture(scope="module")
def serialized(qwen: Sides) -> dict[str, Any]:
    """Qwen's tokenizer.json without its added tokens."""
    whole: dict[str, Any] = json.loads((qwen.folder / "tokenizer.json").read_text(encoding="utf-8"))
    return whole | {"added_tokens": []}


def _pair(serialized: dict[str, Any], special_as_text: bool = False) -> tuple[BatchTokenizer, BatchTokenizer]:
    tokenizer = Tokenizer.from_str(json.dumps(serialized))
    tokenizer.encode_special_tokens = special_as_text
    fast = BatchTokenizer(tokenizer)
    fast.use_fast()
    return fast, BatchTokenizer(tokenizer)


@pytest.fixture(scope="module", params=["qwen", "roberta", "modernbert", "special tokens as text"])
def pair(
    qwen: Sides, serialized: dict[str, Any], request: pytest.FixtureRequest
) -> tuple[BatchTokenizer, BatchTokenizer]:
    """Fast and reference: Qwen's, and its vocabulary in the form of RoBERTa's and of ModernBERT's tokenizer."""
    if request.param == "special tokens as text":
        whole = json.loads((qwen.folder / "tokenizer.json").read_text(encoding="utf-8"))
        return _pair(whole | {"added_tokens": [one | {"special": True} for one in whole["added_tokens"]]}, True)
    forms: dict[str, dict[str, Any]] = {
        "qwen": {},
        "roberta": {"pre_tokenizer": GPT2, "normalizer": None},
        "modernbert": {"pre_tokenizer": GPT2},
    }
    return _pair(serialized | forms[request.param])


def _any_text(chance: random.Random) -> str:
    """One text in three is of pieces of all kinds, one is a run, one is of any code points, marks in odd orders too."""
    kind = chance.randrange(6)
    if kind < 2:
        return hostile_text(chance, pieces=chance.choice([12, 12, 60]))
    if kind == 2:
        runs = [_character(chance) * chance.choice([1, 3, 40, 900]) for _ in range(3)]
        return "".join(chance.choices([*runs, " ", "\n", "\r\n", "'s", "a"], k=chance.randrange(1, 8)))
    if kind == 3:
        return "".join(_character(chance) for _ in range(chance.randrange(200)))
    if kind == 4:
        marks = [
            chr(chance.choice([*range(0x300, 0x370), 0x5B0, 0x64B, 0x93C, 0x3099, 0x1161, 0x11A8])) for _ in "123456"
        ]
        return "".join(chance.choice("aéeo가ᄀかא ") + "".join(chance.choices(marks, k=3)) for _ in range(20))
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randrange(1, 12))) for _ in range(chance.randrange(60))]
    return chance.choice([" ", "  ", "\n", ", ", ".\n\n"]).join([*words, chance.choice(list(HOSTILE.values()))])


def _character(chance: random.Random) -> str:
    last = chance.choice([0x7F, 0x3FF, 0x2FFF, 0xD7FF, 0x1FFFF, sys.maxunicode])
    code = chance.randint(0, last)
    return chr(code if not 0xD800 <= code < 0xE000 else 0xFFFD)


def test_ids_are_the_references(pair: tuple[BatchTokenizer, BatchTokenizer]) -> None:
    fast, reference = pair
    assert fast.fast
    assert not reference.fast
    chance = random.Random(os.environ.get("RERANKER_SEED", "fast"))
    for _ in range(TEXTS // 100):
        batch = [_any_text(chance) for _ in range(100)]
        ours, theirs = fast.encode_batch(batch), reference.encode_batch(batch)
        different = [text for i, text in enumerate(batch) if ours[i].tolist() != theirs[i].tolist()]
        assert not different
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.array_equal(ours.offsets, theirs.offsets)
        assert ours.ids.dtype == theirs.ids.dtype == ours.offsets.dtype == theirs.offsets.dtype == np.int32


@given(text=texts)
def test_ids_are_the_references_for_the_smallest_texts(pair: tuple[BatchTokenizer, BatchTokenizer], text: str) -> None:
    fast, reference = pair
    assert fast.encode(text).tolist() == reference.encode(text).tolist()


@pytest.mark.parametrize(
    "characters", ["a", " ", "\n", "é", "e\u0301", "中", "\u0301", "<|im_end|>", "'", "0", "👩‍👩‍👧"]
)
def test_ids_of_a_long_run_are_the_references(pair: tuple[BatchTokenizer, BatchTokenizer], characters: str) -> None:
    fast, reference = pair
    text = characters * 20_000
    assert np.array_equal(fast.encode(text), reference.encode(text))


def test_half_of_a_surrogate_pair_is_no_text_to_either(pair: tuple[BatchTokenizer, BatchTokenizer]) -> None:
    for text in ("\ud800", "a\udc80b", "\udc00\ud800"):
        for tokenizer in pair:
            with pytest.raises(TypeError):
                tokenizer.encode_batch(["well", text])


@pytest.mark.parametrize("empty", [[], [""], ["", "", ""]])
def test_nothing_has_no_ids(pair: tuple[BatchTokenizer, BatchTokenizer], empty: list[str]) -> None:
    for tokenizer in pair:
        encoded = tokenizer.encode_batch(empty)
        assert len(encoded) == len(empty)
        assert encoded.offsets.tolist() == [0] * (len(empty) + 1)


@pytest.fixture(scope="module")
def small(serialized: dict[str, Any]) -> dict[str, Any]:
    """The same of bytes alone: soon loaded."""
    vocabulary = {token: number for token, number in serialized["model"]["vocab"].items() if len(token) == 1}
    return serialized | {"model": serialized["model"] | {"vocab": vocabulary, "merges": []}}


def _without_a_byte(serialized: dict[str, Any]) -> dict[str, Any]:
    vocabulary = dict(serialized["model"]["vocab"])
    del vocabulary["\u0100"]
    return {"model": serialized["model"] | {"vocab": vocabulary, "merges": []}}


@pytest.mark.parametrize(
    "change",
    [
        lambda of: {"normalizer": {"type": "NFKC"}},
        lambda of: {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        lambda of: {"pre_tokenizer": GPT2 | {"add_prefix_space": True}},
        lambda of: {"pre_tokenizer": {"type": "Whitespace"}},
        lambda of: {"model": of["model"] | {"ignore_merges": True}},
        lambda of: {"model": of["model"] | {"byte_fallback": True}},
        lambda of: {"model": of["model"] | {"dropout": 0.1}},
        lambda of: {"added_tokens": [{"id": 151_657, "content": ADDED_TOKENS[0], "special": False, "single_word": False,
                                      "lstrip": False, "rstrip": False, "normalized": False}]},
        _without_a_byte,
    ],
)  # fmt: skip
def test_a_tokenizer_that_was_not_compared_is_left_to_the_reference(
    small: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    assert _pair(small)[0].fast
    assert not _pair(small | change(small))[0].fast


def test_demo_models_tokenizer_is_left_to_the_reference() -> None:
    renderer = PromptRenderer(DEMO_MODEL, 512, DEFAULT_INSTRUCTION)
    assert not renderer.fast


@pytest.mark.parametrize("kind", ["other ids", "refuses it"])
def test_fastokens_that_differs_is_not_used(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    real = fastokens.Tokenizer.from_json_str

    def load(text: str) -> fastokens.Tokenizer:
        if kind == "refuses it":
            raise ValueError("unsupported")
        return real(json.dumps(json.loads(text) | {"normalizer": None}))

    monkeypatch.setattr(
        "reranker.model.tokenizer.fastokens", SimpleNamespace(Tokenizer=SimpleNamespace(from_json_str=load))
    )
    fast, reference = _pair(small)
    assert not fast.fast
    assert kind in caplog.text.replace("refuses the model's", "refuses it")
    assert fast.encode("e\u0301").tolist() == reference.encode("e\u0301").tolist()


_COUNT_THREADS = """
import os, sys
from pathlib import Path
from reranker.model.prompt import PromptRenderer
from reranker.model.tokenizer import IN_THE_CALLERS_THREAD

if sys.argv[2] == "ours":
    os.environ.update(IN_THE_CALLERS_THREAD)
renderer = PromptRenderer(Path(sys.argv[1]), 512, "instruction")
assert renderer.fast
renderer.render("query", ["some words, " * 100] * 1_000)
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
print(sum(name.startswith("fastokens") for name in names))
"""


@pytest.mark.parametrize("environment", ["ours", "none"])
def test_an_ingress_has_no_threads_of_fastokens(qwen: Sides, environment: str) -> None:
    if environment == "none" and (os.cpu_count() or 1) < 2:
        pytest.skip("one core: it has no threads anyway")
    command = [sys.executable, "-c", _COUNT_THREADS, str(qwen.folder), environment]
    threads = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (threads > 0) == (environment == "none")


@pytest.mark.parametrize("limit", [90, 512])
def test_prompts_and_cuts_are_the_references(qwen: Sides, limit: int) -> None:
    fast = PromptRenderer(qwen.folder, limit, DEFAULT_INSTRUCTION)
    reference = PromptRenderer(qwen.folder, limit, DEFAULT_INSTRUCTION, few=True)
    assert fast.fast
    assert not reference.fast
    assert fast.fingerprint == reference.fingerprint
    chance = random.Random(limit)
    for _ in range(60):
        documents = [_any_text(chance) * chance.choice([1, 1, 30]) for _ in range(chance.randrange(8))]
        cutting = CuttingPolicy(
            mode=chance.choice(["truncate", "windows"]),
            side=chance.choice(["end", "start"]),
            max_document_tokens=chance.choice([None, None, 1, 30, 500]),
            window_tokens=chance.choice([None, 16]),
            overlap_tokens=chance.choice([0, 5]),
            max_windows=chance.choice([1, 3]),
        )
        ours, theirs = (one.render("what?", documents, None, cutting) for one in (fast, reference))
        assert ours.truncated == theirs.truncated
        assert ours.document_of_pair.tolist() == theirs.document_of_pair.tolist()
        for name in ("head", "tail", "tokens", "offsets"):
            assert getattr(ours.prompts, name).tolist() == getattr(theirs.prompts, name).tolist()
