"""(instruction, query, document) -> token ids: a list's prompts, in the layout that travels. Never sees a logit.

A prompt is head + document + tail. The head is encoded once per list, the documents in one batch call, the tail is
constant; what these are is the template's business. Only documents are ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Self

import numpy as np

from reranker.config import ModelConfig
from reranker.errors import QueryTooLongError
from reranker.model.checkpoint import Checkpoint
from reranker.model.templates import PairTemplate, Qwen3Template, Template
from reranker.model.windows import CUT_THE_END, CuttingPolicy
from reranker.types import RenderedList, Shard, TokenArray


class PromptRenderer:
    """Makes the prompts of a list. Holds no state between lists; safe to call from several threads."""

    def __init__(
        self,
        folder: Path,
        max_pair_tokens: int,
        default_instruction: str,
        template: Literal["qwen3", "pair"] = "qwen3",
    ) -> None:
        """Load `tokenizer.json` from a model's folder.

        Args:
            folder: The model's folder.
            max_pair_tokens: Tokens a prompt may have, template included.
            default_instruction: For requests that bring none.
            template: The family's.

        Raises:
            UnsupportedModelError: The tokenizer does not fit the template.
        """
        self._tokenizer_digest = blake2b((folder / "tokenizer.json").read_bytes(), digest_size=16).hexdigest()
        self._template: Template = Qwen3Template(folder) if template == "qwen3" else PairTemplate(folder)
        self._max_pair_tokens = max_pair_tokens
        self._default_instruction = default_instruction

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: ModelConfig) -> Self:
        """Make the renderer of a model as it was found and configured; raises as the constructor does."""
        return cls(checkpoint.folder, checkpoint.max_pair_tokens, model.instruction_text(), checkpoint.family.template)

    @property
    def takes_instruction(self) -> bool:
        """Whether an instruction changes the prompt."""
        return self._template.takes_instruction

    @cached_property
    def fingerprint(self) -> str:
        """What the prompts that this makes depend on besides the request: tokenizer, template and limit.

        The template's part is what it makes of a few texts, so that no change of its code is forgotten.
        """
        template = self._template
        probe = (template.head("query", "instruction"), *template.documents(("document", "")), template.tail)
        parts = (self._tokenizer_digest, self._max_pair_tokens, *(ids.tolist() for ids in probe))
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def render(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        cutting: CuttingPolicy = CUT_THE_END,
    ) -> RenderedList:
        """Make the prompts of one list.

        A document too long for the model is cut or spread over windows; instruction, query and tail never are.

        Args:
            query: The query.
            documents: The candidates, in the list's order.
            instruction: None: the default one.
            cutting: What happens to documents that do not fit.

        Raises:
            QueryTooLongError: Head and tail leave no token for a document.
        """
        head = self._template.head(query, instruction or self._default_instruction)
        tail = self._template.tail
        room = self._max_pair_tokens - len(head) - len(tail)
        if room < 1:
            raise QueryTooLongError(len(head) + len(tail), self._max_pair_tokens)

        pieces: list[TokenArray] = []
        document_of_pair: list[int] = []
        truncated: list[int] = []
        for index, ids in enumerate(self._template.documents(documents)):
            cut = cutting.cut(len(ids), room)
            pieces += [ids[start:end] for start, end in cut.spans]
            document_of_pair += [index] * len(cut.spans)
            if cut.truncated:
                truncated.append(index)
        offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
        owners = np.asarray(document_of_pair, dtype=np.int32)
        return RenderedList(Shard(head, tail, tokens, offsets), owners, frozenset(truncated))
