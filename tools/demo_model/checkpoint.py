"""Where the built files live, and how they are written so that the same inputs give the same bytes everywhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tools.demo_model import layout

MODEL_FOLDER = Path(__file__).resolve().parents[2] / "reranker" / "model" / "demo_model"
INPUTS = Path(__file__).parent
FREQUENCIES = INPUTS / "token_frequencies.tsv"
HELD_OUT = INPUTS / "heldout.jsonl"
OWN_QUESTIONS = INPUTS / "own_questions.jsonl"

Float64 = npt.NDArray[np.float64]

_SAFETENSORS_ALIGNMENT = 8  # bytes; the header is padded with spaces to this, as the format's own writer does


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the small file that tells transformers how to wrap it."""
    tokenizer.save(str(folder / "tokenizer.json"))
    wrapper = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": layout.MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", wrapper)


def write_config(tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json: a plain Qwen3, so that no reader needs code of ours."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "float32",  # how to run it; the file stores bfloat16, which every weight fits
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": layout.HIDDEN,
        "intermediate_size": layout.INTERMEDIATE,
        "num_hidden_layers": layout.LAYERS,
        "num_attention_heads": layout.HEADS,
        "num_key_value_heads": layout.HEADS,
        "head_dim": layout.HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": layout.MAX_POSITIONS,
        "rms_norm_eps": layout.NORM_EPSILON,
        "rope_theta": layout.ROPE_THETA,
        "rope_parameters": {"rope_type": "default", "rope_theta": layout.ROPE_THETA},
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def to_bfloat16(values: Float64) -> npt.NDArray[np.uint16]:
    """Round to bfloat16, ties to even, and return the bit patterns."""
    bits = values.astype("<f4").view("<u4")
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> Float64:
    """Return the values that bit patterns of `to_bfloat16` stand for."""
    return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)


def write_weights(tensors: Mapping[str, Float64], path: Path) -> None:
    """Write a safetensors file in bfloat16 with the tensors in name order.

    Written here rather than by the safetensors package, whose header layout may change between versions.
    Source: the format's description, https://github.com/huggingface/safetensors, "Format".
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blocks, offset = [], 0
    for name in sorted(tensors):
        block = to_bfloat16(tensors[name]).tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(block)],
        }
        blocks.append(block)
        offset += len(block)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _SAFETENSORS_ALIGNMENT)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(blocks))
