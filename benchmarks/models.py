"""The checkpoints that are served, made once and kept in build/bench: right for speed, meaningless as rankings."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.results import SCRATCH, say
from reranker.model.checkpoint import DEMO_MODEL
from tools.qwen_tokenizer import write_tokenizer

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
    def config(self) -> dict[str, int | bool]:
        """By the names of a config.json."""
        return {
            "vocab_size": QWEN_VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
        }

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
    # Qwen3-Reranker's own, for accelerators
    "0.6b": Shape(layers=28, hidden=1024, heads=16, kv_heads=8, head_dim=128, intermediate=3072),
    "4b": Shape(layers=36, hidden=2560, heads=32, kv_heads=8, head_dim=128, intermediate=9728),
    "8b": Shape(layers=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=12288),
}
SHAPE_NAMES = ("demo", *SHAPES)


def checkpoint(shape: str, vocabulary: Vocabulary = "qwen") -> Path:
    """The folder of a shape's checkpoint; vocabulary "bytes": with a tokenizer whose tokens are single bytes."""
    if shape == "demo":
        return DEMO_MODEL
    template = DEMO_MODEL / "chat_template.jinja"  # it says that the model is a reranker
    settings = json.dumps([asdict(SHAPES[shape]), QWEN_VOCABULARY, template.read_text(encoding="utf-8")])
    suffix = "" if vocabulary == "qwen" else f"-{vocabulary}"
    folder = SCRATCH / f"{shape}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}{suffix}"
    if not folder.exists():
        say(f"making the checkpoint {folder}")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_tokenizer(unfinished) if vocabulary == "qwen" else _write_byte_tokenizer(unfinished)
        shutil.copy(template, unfinished)
        _write_weights(SHAPES[shape], unfinished)
        unfinished.rename(folder)
    return folder


def dtype(shape: str) -> str:
    """What engines are told; the demo model is served in float32, as our service does."""
    return "float32" if shape == "demo" else "auto"


def _write_weights(shape: Shape, folder: Path) -> None:
    """Random weights in bfloat16, as published models have them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**shape.config, max_position_embeddings=8192, tie_word_embeddings=True)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def _write_byte_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ye", "yes", "no"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("y", "e"), ("ye", "s"), ("n", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
