"""Folders that are torn, half written, of two models, or contradict themselves: each is refused with its cause."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from reranker.config import ModelConfig
from reranker.errors import UnsupportedModelError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.families import max_tokens
from reranker.model.prompt import PromptRenderer
from tests.zoo import change_json, save_small_files

Spoil = Callable[[Path], Any]
SEQ_CLS, BERT, ZERANK, QWEN3 = "qwen3-reranker-seq-cls", "bert", "zerank", "qwen3-reranker"
VL = "qwen3-vl-reranker"
_PROJECTIONS = [f"self_attn.{one}_proj" for one in "qkvo"] + [f"mlp.{one}_proj" for one in ("gate", "up", "down")]
_LAYER = [*_PROJECTIONS, "input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"]
NAMES = [f"model.layers.{i}.{one}.weight" for i in range(2) for one in _LAYER]
NAMES += ["model.embed_tokens.weight", "model.norm.weight", "score.weight"]
"""Of a whole checkpoint of SEQ_CLS."""
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def _config(**values: Any) -> Spoil:
    return lambda folder: change_json(folder / "config.json", **values)


def _file(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _half(name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:300])


def _template(old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def _save(path: Path, names: list[str], **shapes: tuple[int, ...]) -> None:
    save_file({one: np.zeros(shapes.get(one.partition(".")[0], (1, 2)), np.float32) for one in names}, path)


def _weights(*, without: str = "", more: str = "", **shapes: tuple[int, ...]) -> Spoil:
    names = [one for one in [*NAMES, more] if one and one != without]
    return lambda folder: _save(folder / "model.safetensors", names, **shapes)


def _two_shards(folder: Path) -> None:
    parts = NAMES[::2], NAMES[1::2]
    for file, names in zip(SHARDS, parts, strict=True):
        _save(folder / file, names)
    where = {one: file for file, names in zip(SHARDS, parts, strict=True) for one in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def _lost_shard(folder: Path) -> None:
    _two_shards(folder)
    (folder / SHARDS[1]).unlink()


def _torn_shard(folder: Path) -> None:
    _two_shards(folder)
    (folder / SHARDS[1]).write_bytes((folder / SHARDS[1]).read_bytes()[:-4])


def _save_pickle(folder: Path, names: list[str]) -> None:
    """As torch.save has it."""
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps(dict.fromkeys(names, 1), protocol=2))


def _adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "modules_to_save": ["score"]}')
    _save(folder / "adapter_model.safetensors", ["base_model.model.score.weight"])


def _more_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _config(vocab_size=tokenizer.get_vocab_size())(folder)
    tokenizer.add_tokens(["[DOC]"])
    tokenizer.save(str(folder / "tokenizer.json"))


def _default_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    change_json(path, prompts={"code": "Find code"}, default_prompt_name="code")


def _cased(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False)


TRAPS: dict[str, tuple[str, Spoil, str]] = {
    "another kind of model": (QWEN3, _config(model_type="qwen2"), "model_type is qwen2, and its .* Qwen3ForCausalLM"),
    "listwise": (QWEN3, _config(architectures=["JinaForRanking"]), "v3.5 score a list as one prompt, whose documents"),
    "images": (QWEN3, _config(architectures=["JinaVLForRanking"]), "jina-reranker-m0 ranks images"),
    "half of it as a text": (VL, _config(text_config={"num_hidden_layers": "2"}), "config.json is not of its form"),
    "sees ahead": (QWEN3, _config(is_causal=False), "is_causal"),
    "other positions": (BERT, _config(position_embedding_type="relative_key"), "positions are relative_key"),
    "layers as a text": (BERT, _config(num_hidden_layers="2"), r"config.json is not of its form \(num_hidden_layers"),
    "labels as a list": (BERT, _config(id2label=["LABEL_0"]), r"config.json is not of its form \(id2label"),
    "config is a list": (BERT, _file("config.json", "[]"), "config.json is not of its form"),
    "config half written": (BERT, lambda f: (f / "config.json").write_text('{"archi'), "config.json is not JSON"),
    "config empty": (BERT, _file("config.json", ""), "config.json is not JSON"),
    "tokenizer half written": (BERT, _half("tokenizer.json"), "tokenizer.json is not JSON"),
    "tokenizer without a model": (BERT, _file("tokenizer.json", "{}"), "tokenizer.json is not of its form .model"),
    "tokenizer of nothing": (BERT, lambda f: change_json(f / "tokenizer.json", model={"type": "X"}), "no tokenizer"),
    "limit as a text": (BERT, lambda f: change_json(f / "tokenizer_config.json", model_max_length="512"), "its form"),
    "tokenizer of a larger model": (QWEN3, _more_tokens, "tokens up to .* and its model .* .vocab_size"),
    "cased or not": (BERT, _cased, "says do_lower_case: False, and its tokenizer.json True"),
    "modules without types": (QWEN3, _file("modules.json", '[{"path": ""}]'), "modules.json is not of its form"),
    "model in a folder": (
        QWEN3,
        _file("modules.json", '[{"path": "0_Transformer", "type": "x.Transformer"}]'),
        "folder 0_Transformer: name that",
    ),
    "answer not said": (QWEN3, lambda f: shutil.rmtree(f / "1_LogitScore"), "score is read at no token"),
    "answer as texts": (QWEN3, _file("1_LogitScore/config.json", '{"true_token_id": "yes"}'), "read at 'yes', that"),
    "default instruction": (QWEN3, _default_prompt, "default instruction is 'Find code': set model.instruction"),
    "template in UTF-16": (QWEN3, _file("chat_template.jinja", b"\xff\xfe"), "chat_template.jinja is not UTF-8"),
    "template cuts": (ZERANK, _template("| first }}", "| first | truncate(300) }}"), "changes the texts"),
    "template folds case": (ZERANK, _template("| first }}", "| first | lower }}"), "changes the texts"),
    "template joins lines": (ZERANK, _template("| first }}", "| first | replace('\n', ' ') }}"), "changes the texts"),
    "template escapes": (ZERANK, _template("| first }}", "| first | e }}"), "changes the texts"),
    "template strips one": (ZERANK, _template('"document") | map', '"document") | map("trim") | map'), "."),
    "template with Yes": (QWEN3, _template('"yes" or "no"', '"Yes" or "No"'), "another prompt"),
    "template in a loop": (QWEN3, _template("Judge", "{% for i in range(10**9) %}{% endfor %}Judge"), "nothing in it"),
    "adapter with a head beside": (SEQ_CLS, _adapter_beside, "beside its weights is an adapter"),
    "shard lost": (SEQ_CLS, _lost_shard, f"its {SHARDS[1]} is missing .1 of 2"),
    "shard torn": (SEQ_CLS, _torn_shard, f"its {SHARDS[1]} is damaged"),
    "shard is a pointer": (BERT, _file("model.safetensors", "version https://git-lfs.github.com/spec/v1"), "damaged"),
    "index without a map": (SEQ_CLS, _file("model.safetensors.index.json", "{}"), "index.json is not of its form"),
    "matrix lost": (
        SEQ_CLS,
        _weights(without="model.layers.1.mlp.down_proj.weight"),
        "no model.layers.1.mlp.down_proj",
    ),
    "layer too many": (SEQ_CLS, _weights(more="model.layers.2.mlp.up_proj.weight"), "no layer takes .*layers.2.mlp"),
    "head of two": (SEQ_CLS, _weights(score=(2, 64)), "score.weight has 2 rows, and its config.json says 1"),
    "head lost, pickled": (SEQ_CLS, lambda f: _save_pickle(f, NAMES[:-1]), "no score.weight"),
    "bias of a head lost": (
        BERT,
        lambda f: _save(f / "model.safetensors", ["classifier.weight"]),
        "pooler.dense.weight",
    ),
}


def _read(folder: Path) -> None:
    model = ModelConfig(name=str(folder))
    PromptRenderer.of(find_checkpoint(model), model)


@pytest.mark.parametrize("trap", TRAPS)
def test_trap_is_refused_with_its_cause(trap: str, tmp_path: Path) -> None:
    name, spoil, cause = TRAPS[trap]
    save_small_files(name, tmp_path)
    spoil(tmp_path)
    with pytest.raises(UnsupportedModelError, match=cause):
        _read(tmp_path)


@pytest.mark.parametrize(
    "spare",
    [
        _weights(),
        _two_shards,
        lambda folder: _save_pickle(folder, NAMES),
        lambda folder: _save_pickle(folder, [*NAMES, "model.rotary_emb.inv_freq", "score.bias"]),
        _config(quantization_config={"quant_method": "fp8"}),
        _file("pytorch_model.bin", b"of an old torch"),
    ],
)
def test_whole_checkpoint_is_taken_in_every_form(spare: Spoil, tmp_path: Path) -> None:
    save_small_files(SEQ_CLS, tmp_path)
    spare(tmp_path)
    _read(tmp_path)


def test_what_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    save_small_files(ZERANK, tmp_path)
    _default_prompt(tmp_path)  # its template has no place for it
    change_json(tmp_path / "tokenizer_config.json", model_max_length=1e30)
    _read(tmp_path)
    change_json(tmp_path / "tokenizer_config.json", model_max_length=-1)
    _read(tmp_path)


def test_default_instruction_of_the_checkpoint_may_be_chosen(tmp_path: Path) -> None:
    save_small_files(QWEN3, tmp_path)
    _default_prompt(tmp_path)
    find_checkpoint(ModelConfig(name=str(tmp_path), instruction="Find code"))
    find_checkpoint(ModelConfig(name=str(tmp_path), instruction="Find more"))
    prompts = {"code": f"{ModelConfig().instruction}."}  # as ours, but for a full stop
    change_json(tmp_path / "config_sentence_transformers.json", prompts=prompts)
    find_checkpoint(ModelConfig(name=str(tmp_path)))


def test_padding_of_a_roberta_is_1_where_nothing_says_it() -> None:
    assert max_tokens({"model_type": "roberta", "max_position_embeddings": 514}) == 512
    assert max_tokens({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}) == 513
