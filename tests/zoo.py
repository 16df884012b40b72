"""A tiny random checkpoint for each family, made on the spot, with the files that say how it is prompted and scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from reranker.config import ModelConfig
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.families import FAMILIES, Family
from tests.models import save_pair_tokenizer
from tools.qwen_tokenizer import write_tokenizer

BY_NAME = {one.name: one for one in FAMILIES}
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "Beijing is the capital of China.",
    "def f(x):\n    return {'a':  x}   # two  spaces\n",
    "| a | b |\n|---|---|\n|  1  |  2  |\n",
    "\n\n  重力是一种力。 \n",
    "",
    "Gravity is a force! " * 30,
]
_SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_EYE: dict[str, Any] = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
_EYE |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({key: one for key, one in (old | values).items() if one is not None}), encoding="utf-8")


def chat_template(prompt: str) -> str:
    """Write a family's prompt as a template for the roles "query" and "document"."""
    for place, role in (("{query}", "query"), ("{document}", "document"), ("{instruction}", "system")):
        of_role = f'messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first'
        prompt = prompt.replace(place, f"{{{{ {of_role} }}}}")
    return prompt + "\n" * prompt.endswith("\n")  # Jinja leaves out one line's end


def save_tokenizer(family: Family, folder: Path) -> Tokenizer:
    """Write the family's tokenizer: the demo model's with the prompt's tokens, or one with an encoding of pairs."""
    if family.prompt is not None:
        shutil.copy(DEMO_MODEL / "tokenizer_config.json", folder)
        tokenizer = _with_tokens("<bos>" in family.prompt, family.answer)
        tokenizer.save(str(folder / "tokenizer.json"))
        return tokenizer
    if family.name == "modernbert":
        save_spaced_tokenizer(folder)
    else:
        save_pair_tokenizer("bert" if family.name == "bert" else "xlm-roberta", folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@cache
def _with_tokens(bos: bool, answer: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    tokenizer.add_special_tokens(["<bos>"] if bos else [])
    tokenizer.add_tokens([one for one in answer if tokenizer.token_to_id(one) is None])
    return tokenizer


def save_spaced_tokenizer(folder: Path) -> None:
    """Write a tokenizer as ModernBERT's: bytes in pairs, runs of spaces as added tokens that are not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {one: i for i, one in enumerate([*alphabet, "th", "the", "Ġthe", "ĠĠ"])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ġ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    ids = [(one, tokenizer.token_to_id(one)) for one in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **special)


def save_scoring(family: Family, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what Sentence Transformers needs besides the model."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ]
    task = "sequence-classification"
    if family.prompt is not None:
        (folder / "chat_template.jinja").write_text(chat_template(family.prompt), encoding="utf-8")
    if family.answer:
        task = "text-generation"
        kind = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
        modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind})
        (folder / "1_LogitScore").mkdir(exist_ok=True)
        save_answer(family.answer, tokenizer, folder)
    forward = {"method": "forward", "method_output_name": "logits"}
    modality = {"text": forward} | ({} if family.prompt is None else {"message": forward | {"format": "flat"}})
    output = "causal_logits" if family.answer else "scores"
    how = {"transformer_task": task, "modality_config": modality, "module_output_name": output}
    change_json(folder / "sentence_bert_config.json", **how)
    change_json(folder / "config_sentence_transformers.json", model_type="CrossEncoder", prompts={})
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def save_answer(answer: Sequence[str], tokenizer: Tokenizer, folder: Path) -> None:
    false = tokenizer.token_to_id(answer[0]) if len(answer) == 2 else None
    score = {"true_token_id": tokenizer.token_to_id(answer[-1]), "false_token_id": false}
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(score), encoding="utf-8")


def model_of(folder: Path, of: str) -> ModelConfig:
    """The configuration for a checkpoint of a family: one with an instruction of its own wants that chosen."""
    own = {"instruction": BY_NAME[of].instruction} if BY_NAME[of].instruction else {}
    return ModelConfig(name=str(folder), **own)


def save_small_files(name: str, folder: Path) -> Tokenizer:
    """Write all of a checkpoint but its weights: made in milliseconds, without torch."""
    family = BY_NAME[name]
    tokenizer = save_tokenizer(family, folder)
    kinds = {"Qwen3": "qwen3", "Qwen2": "qwen2", "Gemma": "gemma", "Bert": "bert", "Roberta": "roberta"}
    kinds |= {"Qwen3VL": "qwen3_vl", "XLMRoberta": "xlm-roberta", "ModernBert": "modernbert"}
    kind = kinds[family.architecture.partition("For")[0]]
    labels = {} if family.answer else {"id2label": {"0": "LABEL_0"}}
    positions = {"max_position_embeddings": 514 if "roberta" in kind else 2048}
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": kind, "tie_word_embeddings": True}
    text = {**_SIZE, **labels, **positions}
    change_json(folder / "config.json", **config, **({"text_config": text} if family.reads_more else text))
    save_scoring(family, tokenizer, folder)
    return tokenizer


def save(name: str, folder: Path) -> None:
    """Write a whole checkpoint of a family."""
    import torch
    import transformers

    family = BY_NAME[name]
    tokenizer = save_tokenizer(family, folder)
    if "Qwen2" in family.architecture:  # Transformers puts Qwen2's own rules in place of any other tokenizer's
        write_tokenizer(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    decoder = {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    encoder = {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1}
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "Qwen3": (transformers.Qwen3Config, decoder),
        "Qwen3VL": (transformers.Qwen3VLConfig, decoder),
        "Qwen2": (transformers.Qwen2Config, {key: one for key, one in decoder.items() if key != "head_dim"}),
        "Gemma": (transformers.GemmaConfig, decoder),
        "Bert": (transformers.BertConfig, {"max_position_embeddings": 512, "pad_token_id": 0}),
        "Roberta": (transformers.RobertaConfig, encoder),
        "XLMRoberta": (transformers.XLMRobertaConfig, encoder),
        "ModernBert": (transformers.ModernBertConfig, {"max_position_embeddings": 1024, "classifier_pooling": "mean"}),
    }
    of, own = configs[family.architecture.partition("For")[0]]
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"), 0)
    size = tokenizer.get_vocab_size() + (-tokenizer.get_vocab_size()) % 64
    fields = {"vocab_size": size, "num_labels": 1, **_SIZE, **tokens, **own}
    kind = transformers.AutoModelForCausalLM if family.answer else transformers.AutoModelForSequenceClassification
    if family.reads_more:
        sections = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        text = fields | {"rope_parameters": sections | {"rope_theta": 1e4}}
        fields = {"text_config": text, "vision_config": _EYE, "tie_word_embeddings": True}
        kind = transformers.AutoModelForImageTextToText
    config = of(**fields)
    config.initializer_range = config.initializer_cutoff_factor = 0.5
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # loud enough that a wrong token moves the score
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    save_scoring(family, tokenizer, folder)
