"""A checkpoint's weights compared with what its family has, by their names and shapes, without reading them.

An engine makes up what is missing, and leaves out what it has no place for: the scores are plausible then, and wrong.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from safetensors import SafetensorError, safe_open

from reranker.errors import UnsupportedModelError
from reranker.model.families import Family
from reranker.model.files import read_config, read_json

Shapes: TypeAlias = Mapping[str, tuple[int, ...] | None]
"""Of tensors, by their names; None: it is not on this machine, or in a file that does not say."""


class _Names(NamedTuple):
    """What the weights of an architecture are called: all but the head's are behind `prefix`."""

    prefix: str
    body: tuple[str, ...]  # beside the layers; the first are the embeddings of tokens
    layers: str
    layer: tuple[str, ...]  # in each layer
    head: tuple[str, ...] = ()
    more: str = r".*\.rotary_emb\.inv_freq"  # a pattern of those that are in some checkpoints


def _linear(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for name in names for part in ("weight", "bias"))


_DECODER = _Names(
    "model.",
    ("embed_tokens.weight", "norm.weight"),
    "layers",
    (
        *(f"self_attn.{one}_proj.weight" for one in "qkvo"),
        *(f"mlp.{one}_proj.weight" for one in ("gate", "up", "down")),
        *("input_layernorm.weight", "post_attention_layernorm.weight"),
    ),
)
_QWEN3 = _DECODER._replace(layer=(*_DECODER.layer, "self_attn.q_norm.weight", "self_attn.k_norm.weight"))
_BERT = _Names(
    "bert.",
    (
        *(f"embeddings.{one}_embeddings.weight" for one in ("word", "position", "token_type")),
        *_linear("embeddings.LayerNorm"),
    ),
    "encoder.layer",
    _linear(
        *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    ),
    _linear("bert.pooler.dense", "classifier"),
    r".*\.embeddings\.(position_ids|token_type_ids)",
)
_ROBERTA = _BERT._replace(prefix="roberta.", head=_linear("classifier.dense", "classifier.out_proj"))
NAMES: Mapping[str, _Names] = {
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3VLForConditionalGeneration": _QWEN3._replace(prefix="model.language_model.", more=r"model\.visual\..*"),
    "Qwen2ForCausalLM": _DECODER._replace(layer=(*_DECODER.layer, *(f"self_attn.{one}_proj.bias" for one in "qkv"))),
    "GemmaForCausalLM": _DECODER,
    "Qwen3ForSequenceClassification": _QWEN3._replace(head=("score.weight",)),
    "BertForSequenceClassification": _BERT,
    "RobertaForSequenceClassification": _ROBERTA,
    "XLMRobertaForSequenceClassification": _ROBERTA,
    "ModernBertForSequenceClassification": _Names(
        "model.",
        ("embeddings.tok_embeddings.weight", "embeddings.norm.weight", "final_norm.weight"),
        "layers",
        ("attn.Wqkv.weight", "attn.Wo.weight", "mlp_norm.weight", "mlp.Wi.weight", "mlp.Wo.weight"),
        ("head.dense.weight", "head.norm.weight", *_linear("classifier")),
        r".*\.attn_norm\.(weight|bias)",  # the first layer has none
    ),
}
"""By architecture. There may be a `bias` for each `weight`."""


def require_weights(name: str, folder: Path, family: Family) -> None:
    """Compare the weights of the model `name` with its family's, as far as they are on this machine.

    Raises:
        UnsupportedModelError: A file, the head or another weight is missing, or has the shape of another model's; or
            there is a weight that no layer takes.
    """
    shapes = _shapes(name, folder)
    if shapes is None:
        return
    settings, names = read_config(name, folder), NAMES[family.architecture]
    head = names.head
    if family.answer and not settings.get("tie_word_embeddings", family.architecture == "GemmaForCausalLM"):
        head = ("lm_head.weight",)
    if missing := [one for one in head if one not in shapes]:
        raise UnsupportedModelError(name, f"its weights have no {missing[0]}: its head would be a random one")
    if settings.get("quantization_config"):  # each form has names of its own
        return
    prefix = names.prefix if any(one.startswith(names.prefix) for one in shapes) else ""
    layers = range(settings.get("num_hidden_layers") or 0)
    behind = (*names.body, *(f"{names.layers}.{i}.{one}" for i in layers for one in names.layer))
    needed = (*head, *(f"{prefix}{one}" for one in behind))
    taken = {*needed, *(re.sub("weight$", "bias", one) for one in needed)}
    taken |= {"lm_head.weight"} if family.answer else set()
    if strange := sorted(one for one in shapes if one not in taken and not re.fullmatch(names.more, one)):
        raise UnsupportedModelError(name, f"no layer takes its weight {strange[0]} ({len(strange)} such)")
    if missing := [one for one in needed if one not in shapes]:
        raise UnsupportedModelError(
            name, f"its weights have no {missing[0]} ({len(missing)} such): it would be made up"
        )
    outputs = next((one for one in reversed(names.head) if one.endswith("weight")), "")
    rows = {prefix + names.body[0]: settings.get("vocab_size"), outputs: 1}
    for one, wanted in rows.items():
        shape = shapes.get(one)
        if shape and wanted and shape[0] != wanted:
            said = f"its {one} has {shape[0]} rows, and its config.json says {wanted}"
            raise UnsupportedModelError(name, said)


def _shapes(name: str, folder: Path) -> Shapes | None:
    """The tensors of a folder; None: they are not here yet, or in a form that must be unpickled to see."""
    for file, names_in in (("model.safetensors", _in_safetensors), ("pytorch_model.bin", _in_pickle)):
        index = read_json(name, folder / f"{file}.index.json")
        files = sorted(set(index["weight_map"].values())) if index else [file]
        here = [one for one in files if (folder / one).is_file()]
        if here and len(here) < len(files) and Path(name).is_dir():  # the hub's come later
            lost = next(one for one in files if one not in here)
            raise UnsupportedModelError(name, f"its {lost} is missing ({len(here)} of {len(files)} files are here)")
        found = [names_in(name, folder / one) for one in here]
        if here or index:
            listed = dict.fromkeys(index["weight_map"]) if index and len(here) < len(files) else {}
            known = [one for one in found if one is not None]
            return (
                None
                if len(known) < len(found)
                else {key: one for each in (listed, *known) for key, one in each.items()}
            )
    return None


def _in_safetensors(name: str, path: Path) -> Shapes:
    try:
        with safe_open(path, framework="numpy") as tensors:  # reads the header only, and needs no torch
            return {one: tuple(tensors.get_slice(one).get_shape()) for one in tensors.keys()}  # noqa: SIM118
    except SafetensorError:
        raise UnsupportedModelError(name, f"its {path.name} is damaged, or is none: fetch it again") from None


def _in_pickle(name: str, path: Path) -> Shapes | None:
    """Torch's form since 1.6, a zip: the names are among the texts of its pickle, which is not executed."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(one for one in archive.namelist() if one.endswith("data.pkl"))
            texts = [said for code, said, _ in pickletools.genops(archive.read(pickled)) if "UNICODE" in code.name]
    except (zipfile.BadZipFile, StopIteration, ValueError):
        return None
    return dict.fromkeys(one for one in texts if isinstance(one, str) and "." in one)
