"""Run the demo model with transformers, in float32, over many pairs: for calibration, the quality table and tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from reranker.model.families import PREFIX, SUFFIX
from tools.demo_model import checkpoint
from tools.demo_model.tokenizer import DEFAULT_INSTRUCTION, body, token_id, without_control_tokens

_BATCH_TOKENS = 16_384  # padding included; bounds the memory of one forward pass


class Scorer:
    """The model, its two tokenizers, and the template."""

    def __init__(self, folder: Path = checkpoint.MODEL_FOLDER) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.plain_tokenizer = without_control_tokens(self.tokenizer)
        self._prefix = self._encode(self.tokenizer, PREFIX)
        self._suffix = self._encode(self.tokenizer, SUFFIX)
        answers = [token_id(self.tokenizer, word) for word in ("yes", "no")]
        yes, no = self.model.get_output_embeddings().weight[answers].detach()
        self._yes_minus_no = yes - no

    @staticmethod
    def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(self, query: str, document: str, instruction: str = DEFAULT_INSTRUCTION) -> list[int]:
        ids = self._encode(self.plain_tokenizer, body(query, document, instruction))
        return [*self._prefix, *ids, *self._suffix]

    def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return sigmoid(logit(yes) - logit(no)) of each document."""
        prompts = [self.prompt(query, document) for document in documents]
        scores: list[float] = torch.sigmoid(self.logits(prompts)).tolist()
        return scores

    def logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return logit(yes) - logit(no) at the last token of each prompt, shape (prompts,)."""
        return self.last_states(prompts) @ self._yes_minus_no

    def last_states(self, prompts: Sequence[Sequence[int]], *, before_norm: bool = False) -> torch.Tensor:
        """Return the last token's state of each prompt, (prompts, HIDDEN), after or before the final norm."""
        states = torch.zeros(len(prompts), self.model.config.hidden_size)
        kept: list[torch.Tensor] = []
        hook = self.model.model.norm.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
        try:
            for batch in _batches(prompts):
                lengths = torch.tensor([len(prompts[index]) for index in batch])
                # Padding goes to the right, where a causal model's earlier tokens cannot see it: no mask needed.
                ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
                for row, index in enumerate(batch):
                    ids[row, : len(prompts[index])] = torch.tensor(prompts[index])
                kept.clear()
                with torch.inference_mode():
                    output = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
                every = kept[0] if before_norm else output
                states[batch] = every[torch.arange(len(batch)), lengths - 1]
        finally:
            hook.remove()
        return states


def _batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Group prompt indices by similar length, at most _BATCH_TOKENS a group."""
    group: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        if group and (len(group) + 1) * len(prompts[index]) > _BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
