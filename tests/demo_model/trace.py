"""Look inside the model on one prompt: where each head attends, and what every layer leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tools.demo_model import checkpoint


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened inside the model on one prompt."""

    tokens: Sequence[str]
    attention: Sequence[torch.Tensor]
    """Per layer, shape (heads, tokens, tokens): row attends to column."""
    stream: Sequence[torch.Tensor]
    """Per layer, shape (tokens, HIDDEN): the residual stream after it."""

    def at(self, token: str, occurrence: int = 0) -> int:
        """Return the position of the n-th occurrence of a token; negative counts from the end."""
        return [position for position, own in enumerate(self.tokens) if own == token][occurrence]


class Tracer:
    """The committed model with eager attention, the kind that hands out its weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._model = AutoModelForCausalLM.from_pretrained(
            checkpoint.MODEL_FOLDER, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def __call__(self, prompt: Sequence[int]) -> Trace:
        """Run one prompt of token ids."""
        stream: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda _module, _inputs, output: stream.append((output if torch.is_tensor(output) else output[0])[0])
            )
            for layer in self._model.model.layers
        ]
        with torch.inference_mode():
            output = self._model(torch.tensor([list(prompt)]), output_attentions=True, use_cache=False)
        for hook in hooks:
            hook.remove()
        tokens = [self._tokenizer.decode([token], skip_special_tokens=False) for token in prompt]
        return Trace(tokens, [weights[0] for weights in output.attentions], stream)
