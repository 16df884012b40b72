"""A checkpoint scored by its own library: the other side of `reranker verify`.

It knows nothing of our prompts, tokenizers and heads (reranker/model), and must not: it is what they are compared
with. The prompt is made by the checkpoint's own chat template or pair encoding; one pair at a time, in float32, on the
CPU. For a Qwen3-Reranker whose files have no such template, by the Transformers code of its model card.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from reranker.errors import CommandError

# From the card of Qwen/Qwen3-Reranker-0.6B, "Transformers Usage".
_CARD_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_CARD_PREFIX = f"<|im_start|>system\n{_CARD_SYSTEM}<|im_end|>\n<|im_start|>user\n"
_CARD_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_CARD_ANSWER = ("no", "yes")

_TAG = re.compile(r"<.+>|\[.+\]")


class Inputs(NamedTuple):
    """A pair as a library gives it to its model."""

    ids: list[int]
    features: Any  # the library's own form of it


class Reference(Protocol):
    """A library that scores pairs with a checkpoint."""

    name: str  # with its version, and by what the prompts are made
    tokenizer: Any  # Transformers'

    def inputs(self, query: str, document: str, instruction: str | None) -> Inputs:
        """Prompt a pair; an instruction of None is the checkpoint's own."""

    def logit(self, inputs: Inputs) -> float:
        """Score a pair, before any activation. The first call loads the weights."""


def open_reference(model: str, revision: str | None, folder: Path, card: str | None = None) -> Reference:
    """Find the library for a checkpoint; CommandError: its files do not say how it is prompted or scored.

    Args:
        model: Hub id or path, as the libraries take it.
        revision: The commit on the hub.
        folder: Of its small files.
        card: The family it is said to be of, for a checkpoint whose own files say nothing.
    """
    if (folder / "modules.json").is_file() and _has_sentence_transformers():
        return SentenceTransformersReference(model, revision)
    return TransformersReference(model, revision, folder, card)


def _has_sentence_transformers() -> bool:
    """Whether it is here, and new enough to follow the modules of a cross-encoder (5.4)."""
    try:
        return importlib.util.find_spec("sentence_transformers.cross_encoder.modules") is not None
    except ModuleNotFoundError:
        return False


def control_tokens(tokenizer: Any, prompt: Sequence[int]) -> set[int]:
    """The tokens that no text may become: those marked special, and such as `<think>` in the model's own prompt."""
    added = tokenizer.added_tokens_decoder.items()
    steering = {key for key, token in added if token.special or (key in prompt and _TAG.fullmatch(token.content))}
    return steering - {tokenizer.unk_token_id}  # what a tokenizer has no token for


class SentenceTransformersReference:
    """Its CrossEncoder, which follows the checkpoint's modules."""

    def __init__(self, model: str, revision: str | None) -> None:
        from sentence_transformers import CrossEncoder

        options = {"dtype": "float32"}
        self._encoder: Any = CrossEncoder(model, revision=revision, device="cpu", model_kwargs=options)  # Any: untyped
        self.tokenizer: Any = self._encoder.tokenizer
        self.name = f"Sentence Transformers {version('sentence-transformers')}"

    def inputs(self, query: str, document: str, instruction: str | None) -> Inputs:
        own = self._encoder.prompts.get(self._encoder.default_prompt_name)
        features = self._encoder.preprocess([(query, document)], prompt=instruction or own)
        return Inputs(features["input_ids"][0].tolist(), features)

    def logit(self, inputs: Inputs) -> float:
        import torch

        with torch.no_grad():
            return float(self._encoder.eval()(dict(inputs.features))["scores"].item())


class TransformersReference:
    """Its own model and tokenizer."""

    def __init__(self, model: str, revision: str | None, folder: Path, card: str | None) -> None:
        """Load the tokenizer, and find out how pairs are prompted."""
        from transformers import AutoTokenizer

        self._source = {"pretrained_model_name_or_path": model, "revision": revision}
        self.tokenizer: Any = AutoTokenizer.from_pretrained(**self._source)
        self._config = _read(folder / "config.json")
        architecture = "".join(self._config.get("architectures") or [])
        self._reads_more = "ForConditionalGeneration" in architecture
        self._causal = "ForCausalLM" in architecture or self._reads_more
        self._model: Any = None
        by_card = card is not None and card.startswith("qwen3-reranker")
        if self._has_template((folder / "modules.json").is_file()):
            self._prompt, how = self._by_template, "the checkpoint's chat template"
        elif by_card:
            self._prompt, how = self._by_card, "the code of Qwen3-Reranker's card"
        elif not self._causal:
            self._prompt, how = self._by_pair, "the tokenizer's pairs"
        else:
            raise CommandError(f"{model}: its files have no template for a query and a document to compare with")
        self.answer = self._find_answer(folder, by_card) if self._causal else ()
        if self._causal and not self.answer:
            raise CommandError(f"{model}: its files do not say which token is the answer (1_LogitScore/config.json)")
        self.name = f"Transformers {version('transformers')}, prompts by {how}"

    def _has_template(self, modules: bool) -> bool:
        source = self.tokenizer.chat_template
        # Templates for chats may take any role.
        if not isinstance(source, str) or not (modules or re.search(r"[\"']query[\"']", source)):
            return False
        try:
            text = self._text("QUERY", "DOCUMENT", None)
        except Exception:  # noqa: BLE001 - a template for chats refuses these roles, each in its own way
            return False
        return "QUERY" in text and "DOCUMENT" in text

    def _find_answer(self, folder: Path, by_card: bool) -> tuple[int, ...]:
        """Token ids of the answer: (no, yes), or yes alone; empty: nothing says."""
        modules = _read(folder / "modules.json") if (folder / "modules.json").is_file() else []
        for module in modules:
            if module["type"].endswith(".LogitScore"):
                answer = _read(folder / module["path"] / "config.json")
                return tuple(answer[key] for key in ("false_token_id", "true_token_id") if answer.get(key) is not None)
        return tuple(self.tokenizer.convert_tokens_to_ids(one) for one in _CARD_ANSWER) if by_card else ()

    def _text(self, query: str, document: str, instruction: str | None) -> str:
        texts = {"system": instruction, "query": query, "document": document}
        messages = [{"role": role, "content": text} for role, text in texts.items() if text is not None]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return text

    def _by_template(self, query: str, document: str, instruction: str | None) -> Mapping[str, Any]:
        encoded: Mapping[str, Any] = self.tokenizer(self._text(query, document, instruction), add_special_tokens=False)
        return encoded

    def _by_card(self, query: str, document: str, instruction: str | None) -> Mapping[str, Any]:
        instruction = instruction or "Given a web search query, retrieve relevant passages that answer the query"
        body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        parts = (self.tokenizer.encode(one, add_special_tokens=False) for one in (_CARD_PREFIX, body, _CARD_SUFFIX))
        return {"input_ids": [one for part in parts for one in part]}

    def _by_pair(self, query: str, document: str, instruction: str | None) -> Mapping[str, Any]:
        encoded = self.tokenizer([query], [document])  # a batch of one: alone, an empty document would be none
        return {key: value[0] for key, value in encoded.items()}

    def inputs(self, query: str, document: str, instruction: str | None) -> Inputs:
        encoded = self._prompt(query, document, instruction)
        features = {"input_ids": encoded["input_ids"]}
        if int(self._config.get("type_vocab_size") or 0) > 1:
            features["token_type_ids"] = encoded["token_type_ids"]
        return Inputs(encoded["input_ids"], features)

    def logit(self, inputs: Inputs) -> float:
        import torch
        import transformers

        if self._model is None:
            kind = (
                transformers.AutoModelForCausalLM if self._causal else transformers.AutoModelForSequenceClassification
            )
            kind = transformers.AutoModelForImageTextToText if self._reads_more else kind
            self._model = kind.from_pretrained(**self._source, dtype=torch.float32).eval()
        features = {key: torch.tensor([value]) for key, value in inputs.features.items()}
        with torch.no_grad():
            if not self._causal:
                return float(self._model(**features).logits.item())
            last = self._model(**features, logits_to_keep=1).logits[0, -1]
        *no, yes = (last[one] for one in self.answer)
        return float(yes - no[0] if no else yes)


def use_all_cores() -> None:
    """Let torch compute with every core this process may use: an engine before it has set it to its own few."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _read(path: Path) -> Any:  # Any: JSON
    return json.loads(path.read_text(encoding="utf-8"))
