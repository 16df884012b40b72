"""Make Qwen3 checkpoints of given shapes with random weights: right for speed, meaningless as rankings.

python -m benchmarks.shapes nano OUT_DIR [--tokenizer qwen]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

QWEN_VOCABULARY = 151_669
Vocabulary = Literal["bytes", "qwen"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the cost of a forward pass."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int

    @property
    def flops_per_token(self) -> int:
        """Operations of the matrix products for one token of a prompt, attention's own left out (short prompts)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return 2 * self.layers * (attention + 3 * self.hidden * self.intermediate)


SHAPES = {
    # what serving costs
    "nano": Shape(layers=1, hidden=64, heads=2, kv_heads=2, head_dim=64, intermediate=128),
    # compute and serving in balance
    "small": Shape(layers=4, hidden=256, heads=4, kv_heads=4, head_dim=64, intermediate=768),
    # Qwen3-Reranker-0.6B's own, for accelerators
    "0.6b": Shape(layers=28, hidden=1024, heads=16, kv_heads=8, head_dim=128, intermediate=3072),
}


def make_checkpoint(shape: Shape, folder: Path, seed: int = 0, vocabulary: Vocabulary = "bytes") -> None:
    """Write config, random weights in bfloat16 as published models have them, and a tokenizer.

    Args:
        shape: Of the model.
        folder: Where to.
        seed: Of the weights.
        vocabulary: "bytes": a byte-level tokenizer, made in no time; "qwen": the real one, made in seconds.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if vocabulary == "qwen":
        from tools.build_qwen_tokenizer import write_tokenizer

        write_tokenizer(folder)
    else:
        _write_byte_tokenizer(folder)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=QWEN_VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def _write_byte_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ye", "yes", "no"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(control)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)


def main() -> None:
    """Write one shape to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", choices=get_args(Vocabulary), default="bytes")
    arguments = parser.parse_args()
    make_checkpoint(SHAPES[arguments.shape], arguments.folder, vocabulary=arguments.tokenizer)


if __name__ == "__main__":
    main()
