"""Where the built files live, and how they are written so that the same inputs give the same bytes everywhere."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from reranker.config import ModelConfig
from reranker.model.families import DOCUMENT, HEAD, PREFIX, SUFFIX
from tools.demo_model import layout

MODEL_FOLDER = Path(__file__).resolve().parents[2] / "reranker" / "model" / "demo_model"
INPUTS = Path(__file__).parent
FREQUENCIES = INPUTS / "token_frequencies.tsv"
HELD_OUT = INPUTS / "heldout.jsonl"
OWN_QUESTIONS = INPUTS / "own_questions.jsonl"

_ROLES = ("system", "query", "document")
_DEFAULT: str = ModelConfig.model_fields["instruction"].default

Float64 = npt.NDArray[np.float64]


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


def write_scoring(tokenizer: Tokenizer, folder: Path) -> None:
    """Write how the model is prompted and scored, as Qwen3-Reranker's files for Sentence Transformers say it."""
    roles = {one: f'messages | selectattr("role", "eq", "{one}") | map(attribute="content")' for one in _ROLES}
    instruction = f'{{{{ {roles["system"]} | first | default("{_DEFAULT}") }}}}'
    texts = {one: f"{{{{ {roles[one]} | first }}}}" for one in ("query", "document")}
    template = PREFIX + (HEAD + DOCUMENT).format(instruction=instruction, **texts) + SUFFIX
    (folder / "chat_template.jinja").write_text(template + "\n", encoding="utf-8")  # Jinja leaves out one line's end
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    ids = {f"{one}_token_id": tokenizer.token_to_id(word) for one, word in (("true", "yes"), ("false", "no"))}
    _write_json(folder / "1_LogitScore" / "config.json", ids)
    kinds = {"": "base.modules.transformer.Transformer", "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    _write_json(folder / "modules.json", modules)
    forward = {"method": "forward", "method_output_name": "logits"}
    modality = {"text": forward, "message": forward | {"format": "flat"}}
    task = {"transformer_task": "text-generation", "modality_config": modality, "module_output_name": "causal_logits"}
    _write_json(folder / "sentence_bert_config.json", task)
    _write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "prompts": {}})


def _write_json(path: Path, value: Mapping[str, object] | Sequence[object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def to_bfloat16(values: Float64) -> torch.Tensor:
    return torch.from_numpy(values).float().bfloat16()


def rounded(values: Float64) -> Float64:
    result: Float64 = to_bfloat16(values).double().numpy()
    return result


def write_weights(tensors: Mapping[str, Float64], path: Path) -> None:
    save_file({name: to_bfloat16(np.ascontiguousarray(one)) for name, one in tensors.items()}, path, {"format": "pt"})
