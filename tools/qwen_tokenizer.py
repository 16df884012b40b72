"""Build the real Qwen3 tokenizer with no download from the hub: tokenizer.json, byte for byte as published.

The PyPI package `dashscope` (a development dependency, never imported) carries the vocabulary as
`dashscope/resources/qwen.tiktoken`; the package says "License: Apache 2.0" and nothing else about that file. The file
holds tokens and their ranks only. What tokenizer.json needs beside them is made here: the merges, each token's last
step of the byte-pair encoding by the lower ranks; the normalizer and the split pattern of Qwen2; the added tokens.

The result must have the SHA-256 of the tokenizer.json that is published with Qwen3-Reranker-0.6B and Qwen3-0.6B (as
the public repositories record it that pin these models by hash), so what our tests call the real tokenizer is that very
file. Takes about four seconds.
"""

import base64
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

RANKS_IN_PACKAGE = "dashscope/resources/qwen.tiktoken"
SPLIT = (  # Qwen2's, as in its tokenizer.json
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED_SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
ADDED_TOKENS = (  # control tokens too, but not marked special: `split_special_tokens` lets text become one of them
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_NO_RANK = 1 << 31


def packaged_ranks() -> Path:
    """Where the installed `dashscope` has its vocabulary; FileNotFoundError: it is not there. It is not imported."""
    try:
        path = Path(str(metadata.distribution("dashscope").locate_file(RANKS_IN_PACKAGE)))
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package dashscope, which has {RANKS_IN_PACKAGE}, is not installed") from None
    if not path.is_file():
        raise FileNotFoundError(f"the installed dashscope {metadata.version('dashscope')} has no {RANKS_IN_PACKAGE}")
    return path


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens and their ranks, lowest first: one "base64 rank" a line."""
    lines = (line.split() for line in path.read_bytes().splitlines())
    return dict(sorted(((base64.b64decode(token), int(rank)) for token, rank in lines), key=lambda item: item[1]))


def build_tokenizer(ranks: dict[bytes, int]) -> str:
    """The text of tokenizer.json; RuntimeError: it is not the published file."""
    printable = _printable_bytes()

    def written(token: bytes) -> str:
        return "".join(printable[byte] for byte in token)

    merges = [[written(part) for part in _last_merge(token, ranks)] for token in ranks if len(token) > 1]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": token, **flags, "special": token in SPECIAL_TOKENS}
        for number, token in enumerate([*SPECIAL_TOKENS, *ADDED_TOKENS], start=len(ranks))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    serialized: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {written(token): rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }
    text = json.dumps(serialized, ensure_ascii=False, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != PUBLISHED_SHA256:
        raise RuntimeError(f"the result's SHA-256 is {digest}, the published tokenizer.json has {PUBLISHED_SHA256}")
    return text


def _printable_bytes() -> dict[int, str]:
    """How byte-level vocabularies write bytes: printable ones as themselves, the others as characters from U+0100."""
    itself = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in itself]
    return {byte: chr(byte) for byte in itself} | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts a token is merged from: what the lower ranks leave of its bytes."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], _NO_RANK) for i in range(len(parts) - 1)]
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, and a tokenizer_config.json with which AutoTokenizer loads it as Qwen's."""
    text = build_tokenizer(read_ranks(packaged_ranks()))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8", newline="\n")
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 131_072,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
