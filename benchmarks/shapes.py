"""Make Qwen3 checkpoints of given shapes with random weights: right for speed, meaningless as rankings.

python -m benchmarks.shapes nano OUT_DIR
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

QWEN_VOCABULARY = 151_669


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the cost of a forward pass."""

    layers: int
    hidden: int
    heads: int
    intermediate: int


SHAPES = {
    "nano": Shape(layers=1, hidden=64, heads=2, intermediate=128),  # what serving costs
    "small": Shape(layers=4, hidden=256, heads=4, intermediate=768),  # compute and serving in balance
}


def make_checkpoint(shape: Shape, folder: Path, seed: int = 0) -> None:
    """Write config, random weights in bfloat16 as published models have them, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

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

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=QWEN_VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    """Write one shape to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    make_checkpoint(SHAPES[arguments.shape], arguments.folder)


if __name__ == "__main__":
    main()
