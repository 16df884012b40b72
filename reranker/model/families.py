r"""The families of rerankers we can score with, by the architecture in config.json, and their templates.

An unknown family is refused: a model prompted with another's template gives plausible numbers that are wrong.

A prompt is head (everything up to the document), document, tail. User text is encoded by a tokenizer without control
tokens: `<|im_end|>`, `<think>` or `[SEP]` in a document stay text.

Source of Qwen3Template, token for token: the model card of Qwen/Qwen3-Reranker-0.6B, Transformers code (prefix and
suffix tokens around `<Instruct>: …\n<Query>: …\n<Document>: …`). The vLLM example beside it has blank lines between
the parts: another template, with other scores.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from reranker.errors import UnsupportedModelError
from reranker.model.tokenizer import BatchTokenizer, EncodedTexts
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


class Template(ABC):
    """Makes the parts of a family's prompts."""

    takes_instruction: ClassVar[bool]
    document: ClassVar[str] = "{document}"
    tail: TokenArray  # follows every document
    plain: BatchTokenizer  # for user text: without control tokens

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer from a model's folder; UnsupportedModelError if it does not fit the template."""
        with_control, self.plain = _tokenizers(folder)
        self._prepare(with_control, folder)

    @abstractmethod
    def _prepare(self, with_control: Tokenizer, folder: Path) -> None: ...  # encode the template's own parts

    @abstractmethod
    def head(self, query: str, instruction: str) -> TokenArray: ...  # everything before the document

    def documents(self, documents: Sequence[str]) -> EncodedTexts:
        return self.plain.encode_batch([self.document.format(document=document) for document in documents])


class Qwen3Template(Template):
    """Qwen3-Reranker's.

    The document's part begins with the space after `<Document>:`, which is a pre-token boundary in Qwen's tokenizer,
    so the parts have the same ids as the whole string.
    """

    takes_instruction = True
    document = DOCUMENT

    def _prepare(self, with_control: Tokenizer, folder: Path) -> None:
        for token in (*_CONTROL_TOKENS, "yes", "no"):
            if with_control.token_to_id(token) is None:
                raise UnsupportedModelError(str(folder), f"its tokenizer has no token {token!r}")
        whole = BatchTokenizer(with_control)
        self._prefix = whole.encode(PREFIX)
        self.tail = whole.encode(SUFFIX)

    def head(self, query: str, instruction: str) -> TokenArray:
        # One string: a query that ends in punctuation merges with the newline after it.
        return np.concatenate([self._prefix, self.plain.encode(HEAD.format(instruction=instruction, query=query))])


class PairTemplate(Template):
    """A classic cross-encoder's: the tokenizer's own encoding of a pair, such as `[CLS] query [SEP] document [SEP]`."""

    takes_instruction = False

    def _prepare(self, with_control: Tokenizer, folder: Path) -> None:
        pair: Any = with_control.encode("a", "b")  # Any: tokenizers' Encoding, a compiled class
        # Special tokens have a sequence too in some tokenizers.
        sequences = zip(pair.special_tokens_mask, pair.sequence_ids, strict=True)
        place = [None if special else sequence for special, sequence in sequences]
        if 0 not in place or 1 not in place or place.index(1) < place.index(0) or None not in place:
            raise UnsupportedModelError(str(folder), "its tokenizer has no encoding of a pair")
        query, document = place.index(0), place.index(1)
        after_query = max(i for i, sequence in enumerate(place) if sequence == 0) + 1
        after_document = max(i for i, sequence in enumerate(place) if sequence == 1) + 1
        self._before, self._between = _ids(pair.ids[:query]), _ids(pair.ids[after_query:document])
        self.tail = _ids(pair.ids[after_document:])

    def head(self, query: str, instruction: str) -> TokenArray:
        return np.concatenate([self._before, self.plain.encode(query), self._between])


def _tokenizers(folder: Path) -> tuple[Tokenizer, BatchTokenizer]:
    """A model's tokenizer, and the same without control tokens: it makes none, whatever the text.

    The library's option (encode_special_tokens) leaves out added tokens not marked special, such as `<think>`.
    """
    serialized = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    serialized |= {"truncation": None, "padding": None}  # we cut the document only
    added = {token["content"] for token in serialized.get("added_tokens", [])}
    plain = {**serialized, "added_tokens": []}
    if serialized["model"].get("type") == "Unigram":
        # Its control tokens are pieces like any other, and `</s>` in a text would become one.
        vocabulary = [[piece, _NEVER if piece in added else score] for piece, score in serialized["model"]["vocab"]]
        plain["model"] = {**serialized["model"], "vocab": vocabulary}
    return Tokenizer.from_str(json.dumps(serialized)), BatchTokenizer(Tokenizer.from_str(json.dumps(plain)))


def _ids(ids: Sequence[int]) -> TokenArray:
    return np.asarray(ids, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture."""

    architecture: str
    description: str
    template: Callable[[Path], Template]
    hf_overrides: Mapping[str, object] = field(default_factory=dict)  # for vLLM, to make its classification head
    causal: bool = True  # tokens see only those before: the pairs of a list can share the computation of their head


_QWEN3_CARD = "Qwen/Qwen3-Reranker-0.6B, -4B, -8B"
FAMILIES = (
    Family(
        "Qwen3ForCausalLM",
        f"Qwen3-Reranker as published ({_QWEN3_CARD})",
        Qwen3Template,
        # logit("yes") - logit("no"), from two rows of the language model's own head.
        hf_overrides={
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
    ),
    Family("Qwen3ForSequenceClassification", "Qwen3-Reranker converted to a classifier (…-seq-cls)", Qwen3Template),
    Family("BertForSequenceClassification", "classic cross-encoder (ms-marco-MiniLM, …)", PairTemplate, causal=False),
    Family("RobertaForSequenceClassification", "classic cross-encoder on RoBERTa", PairTemplate, causal=False),
    Family("XLMRobertaForSequenceClassification", "BAAI/bge-reranker-base, -large, -v2-m3", PairTemplate, causal=False),
    Family("ModernBertForSequenceClassification", "gte-reranker-modernbert-base, …", PairTemplate, causal=False),
)


def family_of(name: str, settings: Mapping[str, Any]) -> Family:  # Any: JSON
    """Find a family by config.json; UnsupportedModelError if there is none, or the head gives more than one score."""
    architectures = settings.get("architectures") or []
    family = next((one for one in FAMILIES if architectures == [one.architecture]), None)
    if family is None:
        known = "; ".join(f"{one.architecture}: {one.description}" for one in FAMILIES)
        raise UnsupportedModelError(name, f"its architecture is {architectures}. Known are {known}")
    labels = len(settings["id2label"]) if settings.get("id2label") else int(settings.get("num_labels") or 2)
    if "SequenceClassification" in family.architecture and labels != 1:
        raise UnsupportedModelError(name, f"its head has {labels} labels; a reranker's has one")
    return family


def max_tokens(settings: Mapping[str, Any]) -> int | None:
    """Tokens a prompt may have; None: config.json does not say."""
    positions = settings.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if "roberta" in str(settings.get("model_type")):
        return positions - int(settings.get("pad_token_id") or 0) - 1  # their positions start after the padding's id
    return positions


def has_token_types(settings: Mapping[str, Any]) -> bool:
    return int(settings.get("type_vocab_size") or 0) > 1
