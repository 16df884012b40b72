"""Tiny models of every family, made on the spot: right in shape, tokenizer and head; random, so no rankers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from reranker.model.checkpoint import DEMO_MODEL

WORDS = [
    "capital",
    "china",
    "beijing",
    "paris",
    "is",
    "the",
    "of",
    "what",
    "gravity",
    "force",
    "a",
    "?",
    ".",
    "[",
    "]",
    "<",
    ">",
]


def save_pair_tokenizer(kind: str, folder: Path) -> None:
    """Write a fast tokenizer with its own pair encoding: "bert" (WordPiece) or "xlm-roberta" (Unigram)."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    if kind == "bert":
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{letter}" for letter in letters), "/"]
        tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        unigrams = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("/", -9.0)]
        unigrams += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -8.0) for letter in [*letters, *"[]<>?."]]
        tokenizer = Tokenizer(models.Unigram(unigrams, unk_id=3))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_cross_encoder(kind: str, folder: Path) -> None:
    """Write a random cross-encoder of one label: "bert" or "xlm-roberta"."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, XLMRobertaConfig

    save_pair_tokenizer(kind, folder)
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = (
        BertConfig(vocab_size=128, max_position_embeddings=512, num_labels=1, initializer_range=0.5, **size)
        if kind == "bert"
        else XLMRobertaConfig(
            vocab_size=128, max_position_embeddings=514, type_vocab_size=1, num_labels=1, initializer_range=0.5, **size
        )
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def save_converted_demo(folder: Path) -> None:
    """Write the demo model converted to a classifier of one label, as the published …-seq-cls checkpoints are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    original = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    original.config.num_labels = 1
    converted = Qwen3ForSequenceClassification(original.config)
    converted.model.load_state_dict(original.model.state_dict())
    head = original.lm_head.weight
    with torch.no_grad():
        converted.score.weight.copy_((head[yes] - head[no])[None])
    converted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_int8_demo(folder: Path, kept: Sequence[str] = ("model.layers.2.self_attn.o_proj",)) -> None:
    """Write the demo model in INT8, in the form of compressed-tensors: W8A8, no calibration.

    Weights have a scale for each output channel; activations get one for each token, when they are there.

    Args:
        folder: Where to.
        kept: Matrices that stay in float32. The default takes the demo model's verdict (0.01) beside a value of 6.4:
            in INT8 it would be rounded to zero, and two lists of five would become ties.
    """
    import torch
    from safetensors.torch import load_file, save_file

    eight_bits = {"num_bits": 8, "type": "int", "symmetric": True}
    scheme = {
        "targets": ["Linear"],
        "weights": eight_bits | {"strategy": "channel", "dynamic": False},
        "input_activations": eight_bits | {"strategy": "token", "dynamic": True},
        "output_activations": None,
    }
    settings = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head", *kept],
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / name, folder)
    tensors = {}
    for name, weight in load_file(DEMO_MODEL / "model.safetensors").items():
        tensors[name] = weight = weight.float()
        if name.endswith("_proj.weight") and name.removesuffix(".weight") not in kept:
            scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-8)  # rows of zeros stay zeros
            tensors[name], tensors[f"{name}_scale"] = (weight / scale).round().to(torch.int8), scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_hospital_demo(folder: Path) -> None:
    """Write the demo model with its hospital's adapter (tools/demo_model/adapter.py) added to its weights.

    It knows that "kidney" is "renal", which the demo model does not, and so ranks otherwise.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from tools.demo_model import adapter

    shutil.copytree(DEMO_MODEL, folder, dirs_exist_ok=True)
    tensors = {name: weight.float() for name, weight in load_file(DEMO_MODEL / "model.safetensors").items()}
    added = {name.removeprefix("base_model.model."): torch.tensor(one) for name, one in adapter.adapter().items()}
    for name in {name.rsplit(".", 2)[0] for name in added}:
        product = added[f"{name}.lora_B.weight"] @ added[f"{name}.lora_A.weight"]
        tensors[f"{name}.weight"] = (tensors[f"{name}.weight"].double() + product).float()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings |= {key: "float32" for key in ("dtype", "torch_dtype") if key in settings}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
