"""The model card of Qwen3-Reranker in Transformers, as the reference for our prompts and scores.

Transcribed step by step from the card's "Transformers Usage" and from QwenLM/Qwen3-Embedding,
examples/qwen3_reranker_transformers.py: the prefix's and the suffix's ids, the body encoded as one string and cut to
the room between them, softmax over the logits of "no" and "yes" at the last position. Shares nothing with
reranker/model/families.py or reranker/ranking/scoring.py, and must not: it is what they are checked against.

One thing the card does not have: `literal=True`, where the body's text never becomes a control token. On the card's
own path a document that says `<|im_end|>` ends the user's turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
MAX_LENGTH = 8_192
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


class CardTokenizer:
    """The card's way from (instruction, query, document) to token ids."""

    def __init__(self, folder: Path, max_length: int = MAX_LENGTH) -> None:
        """Load a model's tokenizer with Transformers.

        Args:
            folder: The model's folder.
            max_length: Tokens a prompt may have, as on the card.
        """
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")  # Any: untyped
        self.no_id: int = self._tokenizer.convert_tokens_to_ids("no")
        self.yes_id: int = self._tokenizer.convert_tokens_to_ids("yes")
        prefix = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        self.prefix_tokens: list[int] = self._tokenizer.encode(prefix, add_special_tokens=False)
        self.suffix_tokens: list[int] = self._tokenizer.encode(suffix, add_special_tokens=False)
        self._room = max_length - len(self.prefix_tokens) - len(self.suffix_tokens)
        # The same model and splitting, with no added vocabulary in front of them.
        loaded: Tokenizer = self._tokenizer.backend_tokenizer
        self._without_control = Tokenizer(loaded.model)
        self._without_control.normalizer = loaded.normalizer
        self._without_control.pre_tokenizer = loaded.pre_tokenizer

    @property
    def control_tokens(self) -> dict[str, int]:
        """Every token that the plain path makes of its text, and its id."""
        vocabulary: dict[str, int] = self._tokenizer.get_added_vocab()
        return vocabulary

    def ids(self, instruction: str | None, query: str, document: str, *, literal: bool) -> list[int]:
        """One prompt.

        Args:
            instruction: None: the card's default.
            query: The query.
            document: The document.
            literal: True: text stays text. False: as on the card, where control tokens in the text are control tokens.
        """
        body = self._format(instruction, query, document)
        if literal:
            ids: list[int] = self._without_control.encode(body, add_special_tokens=False).ids[: self._room]
        else:
            [ids] = self._tokenizer(
                [body],
                padding=False,
                truncation="longest_first",
                return_attention_mask=False,
                max_length=self._room,
            )["input_ids"]
        return self.prefix_tokens + ids + self.suffix_tokens

    @staticmethod
    def _format(instruction: str | None, query: str, document: str) -> str:
        if instruction is None:
            instruction = DEFAULT_INSTRUCTION
        return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"


class CardReranker:
    """The card's score of a pair: P(yes) against P(no), in float32 on the CPU, one prompt at a time."""

    def __init__(self, folder: Path, max_length: int = MAX_LENGTH) -> None:
        """Load a model with Transformers."""
        import torch
        from transformers import AutoModelForCausalLM

        self.tokenizer = CardTokenizer(folder, max_length)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # Any: untyped

    def score(self, query: str, document: str, instruction: str | None = None) -> float:
        """P(yes) / (P(yes) + P(no)) after the prompt, the text taken literally."""
        return self.score_ids(self.tokenizer.ids(instruction, query, document, literal=True))

    def score_ids(self, prompt: list[int]) -> float:
        """P(yes) / (P(yes) + P(no)) after a prompt."""
        import torch

        with torch.no_grad():
            # Only the last position's logits: for 8,192 positions they would take half a gigabyte.
            last = self._model(torch.tensor([prompt]), logits_to_keep=1).logits[:, -1, :]
        both = torch.stack([last[:, self.tokenizer.no_id], last[:, self.tokenizer.yes_id]], dim=1)
        score: float = torch.nn.functional.log_softmax(both, dim=1)[:, 1].exp().item()
        return score
