"""Encode texts in batches, into flat arrays: with fastokens where its ids are known to be equal, else the slow way.

The slow way, and the reference, is Hugging Face's tokenizer; tests/prompts/test_fast_tokenizer.py compares the two
(docs/decisions/0017-fastokens.md).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastokens
import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from reranker.types import TokenArray

logger = logging.getLogger(__name__)

IN_THE_CALLERS_THREAD = {"TOKENIZERS_PARALLELISM": "false", "FASTOKENS_BPE_THREADS": "1"}
"""For a process's environment, before the first text. The tokenizers' own threads are one pool for everybody, so that a
small list would wait for all of a huge one; and one for each core of the machine, whatever a pod has of them."""

# How text is split into words, in the tokenizers that were compared.
_QWEN2_SPLIT = (  # all of Qwen's since the second
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: Sequence[Mapping[str, object]] = (
    {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    },
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},  # GPT-2's: RoBERTa, ModernBERT
)
_NORMALIZERS: Sequence[object] = (None, {"type": "NFC"})
_PROBES = ("It's 2026: Größe, e\u0301 ﬁ\n\n  naïve\t中文。 עברית हिन्दी 👩🏽‍🚀\u200b <think>\r\n  ", "", " ", "a" * 300)


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Token ids of some texts."""

    ids: TokenArray  # shape (tokens of all texts,), one text after the other; read-only
    offsets: TokenArray  # shape (texts + 1,), rising from 0 to `len(ids)`

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[TokenArray]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> TokenArray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


class BatchTokenizer:
    """A tokenizer that gives ids, and nothing of a text's own: no special tokens around it. Safe in several threads."""

    def __init__(self, reference: Tokenizer) -> None:
        self._reference = reference
        self._fast: fastokens.Tokenizer | None = None

    def use_fast(self) -> None:
        """Load fastokens for the same tokenizer, if it gives the same ids: a second, for a large vocabulary."""
        serialized = json.loads(self._reference.to_str())
        if self._reference.encode_special_tokens:  # they stay text, as if there were none; it is no part of the file
            serialized["added_tokens"] = [one for one in serialized["added_tokens"] if not one["special"]]
        if (reason := _strange(serialized)) is not None:
            logger.info("tokenizing with Hugging Face's tokenizer: %s", reason)
            return
        try:
            self._fast = fastokens.Tokenizer.from_json_str(json.dumps(serialized))
            same = self._flat(self._fast, _PROBES).ids.tolist() == self._with_reference(_PROBES).ids.tolist()
        except ValueError as error:
            same, reason = False, f"fastokens refuses the model's: {error}"
        if not same:
            self._fast = None
            logger.warning("tokenizing with Hugging Face's tokenizer: %s", reason or "fastokens gives other ids")

    @property
    def fast(self) -> bool:
        return self._fast is not None

    def encode(self, text: str) -> TokenArray:
        return self.encode_batch([text]).ids

    def places(self, text: str) -> Sequence[tuple[int, int]]:
        """Give `[start, end)` of each token's characters. Slow."""
        places: Sequence[tuple[int, int]] = self._reference.encode(text, add_special_tokens=False).offsets
        return places

    def encode_batch(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode them all, without holding the interpreter; TypeError: one is no text, as half of a surrogate pair."""
        if self._fast is not None:
            try:
                return self._flat(self._fast, texts)
            except ValueError:  # what it cannot encode is the reference's to judge
                pass
        return self._with_reference(texts)

    @staticmethod
    def _flat(tokenizer: fastokens.Tokenizer, texts: Sequence[str]) -> EncodedTexts:
        ids, offsets = tokenizer.encode_batch_flat(list(texts))
        return EncodedTexts(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64).astype(np.int32))

    def _with_reference(self, texts: Sequence[str]) -> EncodedTexts:
        # Unlike `encode`, it frees the interpreter.
        encoded = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
        np.cumsum([len(one) for one in encoded], out=offsets[1:])
        ids = np.empty(int(offsets[-1]), dtype=np.int32)
        for number, one in enumerate(encoded):
            ids[offsets[number] : offsets[number + 1]] = one.ids
        return EncodedTexts(ids, offsets)


def _strange(serialized: Mapping[str, Any]) -> str | None:  # Any: JSON
    """Say what of a tokenizer is not as in those that were compared; None: nothing."""
    model = serialized["model"]
    if model.get("type") != "BPE":
        return f"the model's is of type {model.get('type')}"
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        return "the model's has a BPE of its own kind"
    if any(model.get(name) for name in ("unk_token", "fuse_unk", "byte_fallback", "ignore_merges")):
        return "the model's has a BPE of its own kind"
    if not model["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
        return "the model's has no token for some byte"
    if serialized["added_tokens"] or serialized["truncation"] or serialized["padding"]:
        return "the model's has tokens beside its vocabulary"
    if serialized["normalizer"] not in _NORMALIZERS:
        return "the model's normalizes texts in its own way"
    if _without_offsets(serialized["pre_tokenizer"]) not in _SPLITS:
        return "the model's splits texts in its own way"
    return None


def _without_offsets(part: Any) -> Any:  # Any: JSON
    """A part of tokenizer.json without `trim_offsets`, which changes no ids."""
    if isinstance(part, dict):
        return {name: _without_offsets(value) for name, value in part.items() if name != "trim_offsets"}
    return [_without_offsets(one) for one in part] if isinstance(part, list) else part
