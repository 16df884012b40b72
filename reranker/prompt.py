r"""(instruction, query, document) -> token ids. The only file that knows a template; it never sees a logit.

A prompt is head + document + tail. The head (system text, instruction, query, up to and including `<Document>:`) is
encoded once per list, the documents in one batch call, the tail is constant. The cut after `<Document>:` is a
pre-token boundary in Qwen's tokenizer, as the document's part begins with the space, so the pieces have the same ids
as the whole string. User text is encoded by a tokenizer without control tokens: `<|im_end|>` or `<think>` in a
document stays text.

Source of the template, token for token: the model card of Qwen/Qwen3-Reranker-0.6B, Transformers code (prefix and
suffix tokens around `<Instruct>: …\n<Query>: …\n<Document>: …`). The vLLM example beside it has blank lines between
the parts: another template, with other scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from reranker.errors import QueryTooLongError, UnsupportedModelError
from reranker.types import RenderedList, Shard, TokenArray

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
HEAD = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
DOCUMENT = " {document}"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


class PromptRenderer:
    """Makes the prompts of a list. Holds no state between lists; safe to call from several threads."""

    def __init__(self, folder: Path, max_pair_tokens: int, default_instruction: str) -> None:
        """Load `tokenizer.json` from a model's folder.

        Args:
            folder: The model's folder.
            max_pair_tokens: Tokens a prompt may have, template included.
            default_instruction: For requests that bring none.

        Raises:
            UnsupportedModelError: The tokenizer lacks a control token of the template, or "yes" or "no".
        """
        serialized = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        with_control = _tokenizer(serialized)
        # Without its added tokens the tokenizer cannot make a control token, whatever the text. Its own option for
        # that (encode_special_tokens) spares those marked special only: `<think>` would still become one.
        self._tokenizer = _tokenizer({**serialized, "added_tokens": []})
        self._max_pair_tokens = max_pair_tokens
        self._default_instruction = default_instruction
        for token in (*_CONTROL_TOKENS, "yes", "no"):
            if with_control.token_to_id(token) is None:
                raise UnsupportedModelError(str(folder), f"its tokenizer has no token {token!r}")
        self._prefix = _ids(with_control.encode(PREFIX, add_special_tokens=False).ids)
        self._tail = _ids(with_control.encode(SUFFIX, add_special_tokens=False).ids)

    def render(self, query: str, documents: Sequence[str], instruction: str | None = None) -> RenderedList:
        """Make the prompts of one list.

        A pair too long for the model loses document tokens from the end, never instruction, query or tail.

        Args:
            query: The query.
            documents: The candidates, in the list's order.
            instruction: None: the default one.

        Raises:
            QueryTooLongError: Head and tail leave no token for a document.
        """
        head_text = HEAD.format(instruction=instruction or self._default_instruction, query=query)
        body = self._tokenizer.encode(head_text, add_special_tokens=False).ids
        head = np.concatenate([self._prefix, _ids(body)])
        room = self._max_pair_tokens - len(head) - len(self._tail)
        if room < 1:
            raise QueryTooLongError(len(head) + len(self._tail), self._max_pair_tokens)

        encodings = self._tokenizer.encode_batch_fast(
            [DOCUMENT.format(document=document) for document in documents], add_special_tokens=False
        )
        pieces: list[TokenArray] = []
        truncated: list[int] = []
        for index, encoding in enumerate(encodings):
            ids = _ids(encoding.ids)
            if len(ids) > room:
                ids = ids[:room]
                truncated.append(index)
            pieces.append(ids)
        offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        tokens = np.concatenate(pieces) if pieces else _ids([])
        return RenderedList(Shard(head, self._tail, tokens, offsets), frozenset(truncated))


def _tokenizer(serialized: dict[str, object]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(serialized))
    tokenizer.no_truncation()  # ours cuts the document only
    tokenizer.no_padding()
    return tokenizer


def _ids(ids: Sequence[int]) -> TokenArray:
    return np.asarray(ids, dtype=np.int32)
