r"""How a pair becomes a prompt: the only file that knows a template.

A template gives the parts of a prompt: head (everything up to the document), document, tail. User text is encoded by a
tokenizer without control tokens: `<|im_end|>`, `<think>` or `[SEP]` in a document stay text.

Source of Qwen3Template, token for token: the model card of Qwen/Qwen3-Reranker-0.6B, Transformers code (prefix and
suffix tokens around `<Instruct>: …\n<Query>: …\n<Document>: …`). The vLLM example beside it has blank lines between
the parts: another template, with other scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from tokenizers import Tokenizer

from reranker.errors import UnsupportedModelError
from reranker.types import TokenArray

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
HEAD = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
DOCUMENT = " {document}"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
_NEVER = -1e9  # score of a piece that Unigram must not choose


class Template(Protocol):
    """The parts of a family's prompts."""

    takes_instruction: ClassVar[bool]
    tail: TokenArray
    """What follows every document."""

    def head(self, query: str, instruction: str) -> TokenArray:
        """Everything before the document."""
        ...

    def documents(self, documents: Sequence[str]) -> list[TokenArray]:
        """Each document's own tokens, encoded in one batch."""
        ...


class Qwen3Template:
    """Qwen3-Reranker's.

    The cut after `<Document>:` is a pre-token boundary in Qwen's tokenizer, as the document's part begins with the
    space, so the pieces have the same ids as the whole string.
    """

    takes_instruction: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        """Load `tokenizer.json` from a model's folder.

        Raises:
            UnsupportedModelError: It lacks a control token of the template, or "yes" or "no".
        """
        with_control, self._tokenizer = _tokenizers(folder)
        for token in (*_CONTROL_TOKENS, "yes", "no"):
            if with_control.token_to_id(token) is None:
                raise UnsupportedModelError(str(folder), f"its tokenizer has no token {token!r}")
        self._prefix = _ids(with_control.encode(PREFIX, add_special_tokens=False).ids)
        self.tail = _ids(with_control.encode(SUFFIX, add_special_tokens=False).ids)

    def head(self, query: str, instruction: str) -> TokenArray:
        """System text, instruction and query, up to and including `<Document>:`."""
        # One string: a query that ends in punctuation merges with the newline after it.
        text = HEAD.format(instruction=instruction, query=query)
        return np.concatenate([self._prefix, _ids(self._tokenizer.encode(text, add_special_tokens=False).ids)])

    def documents(self, documents: Sequence[str]) -> list[TokenArray]:
        """Each document with the space before it."""
        return _batch(self._tokenizer, [DOCUMENT.format(document=document) for document in documents])


class PairTemplate:
    """A classic cross-encoder's: the tokenizer's own encoding of a pair, such as `[CLS] query [SEP] document [SEP]`."""

    takes_instruction: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        """Learn from the tokenizer what it puts around and between the two texts.

        Raises:
            UnsupportedModelError: It puts the document first, or nothing around a pair.
        """
        with_control, self._tokenizer = _tokenizers(folder)
        pair = with_control.encode("a", "b")
        place = [None if special else sequence for special, sequence in zip(*_places(pair), strict=True)]
        if 0 not in place or 1 not in place or place.index(1) < place.index(0) or None not in place:
            raise UnsupportedModelError(str(folder), "its tokenizer has no encoding of a pair")
        query, document = place.index(0), place.index(1)
        after_query = max(i for i, sequence in enumerate(place) if sequence == 0) + 1
        after_document = max(i for i, sequence in enumerate(place) if sequence == 1) + 1
        self._before, self._between = _ids(pair.ids[:query]), _ids(pair.ids[after_query:document])
        self.tail = _ids(pair.ids[after_document:])

    def head(self, query: str, instruction: str) -> TokenArray:
        """What stands before the query, the query, and what parts it from the document."""
        encoded = _ids(self._tokenizer.encode(query, add_special_tokens=False).ids)
        return np.concatenate([self._before, encoded, self._between])

    def documents(self, documents: Sequence[str]) -> list[TokenArray]:
        """Each document alone."""
        return _batch(self._tokenizer, documents)


def _places(pair: Any) -> tuple[list[int], list[int | None]]:
    # (Any: tokenizers' Encoding, a compiled class.) Special tokens have a sequence too in some tokenizers.
    return pair.special_tokens_mask, pair.sequence_ids


def _tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """A model's tokenizer, and the same without control tokens: it cannot make one, whatever the text.

    The library's own option for that (encode_special_tokens) spares added tokens not marked special: `<think>` would
    still become one.
    """
    serialized = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"] for token in serialized.get("added_tokens", [])}
    plain = {**serialized, "added_tokens": []}
    if serialized["model"].get("type") == "Unigram":
        # Its control tokens are pieces like any other, and `</s>` in a text would be chosen as one.
        vocabulary = [[piece, _NEVER if piece in added else score] for piece, score in serialized["model"]["vocab"]]
        plain["model"] = {**serialized["model"], "vocab": vocabulary}
    return _load(serialized), _load(plain)


def _load(serialized: dict[str, object]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(serialized))
    tokenizer.no_truncation()  # ours cuts the document only
    tokenizer.no_padding()
    return tokenizer


def _batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenArray]:
    return [_ids(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _ids(ids: Sequence[int]) -> TokenArray:
    return np.asarray(ids, dtype=np.int32)
