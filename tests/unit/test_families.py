"""A model prompted in another family's way gives plausible numbers that are wrong; better refuse it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine
from reranker.errors import UnsupportedModelError
from reranker.model.checkpoint import find_checkpoint
from reranker.model.families import FAMILIES, has_token_types, max_tokens
from reranker.model.prompt import CuttingPolicy, PromptRenderer
from tests.zoo import BY_NAME, DOCUMENTS, QUERY, change_json, model_of, save_answer, save_small_files

NAMES = [one.name for one in FAMILIES]


CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_found_by_what_its_checkpoint_says(name: str, tmp_path: Path) -> None:
    save_small_files(name, tmp_path)
    checkpoint = find_checkpoint(model_of(tmp_path, of=name))
    assert checkpoint.family == BY_NAME[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_makes_the_ids_of_the_whole_text(name: str, tmp_path: Path) -> None:
    save_small_files(name, tmp_path)
    model, prompt = model_of(tmp_path, of=name), BY_NAME[name].prompt
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    shard = PromptRenderer.of(find_checkpoint(model), model).render(QUERY, DOCUMENTS).prompts
    for i, document in enumerate(DOCUMENTS):
        ours = [*shard.head, *shard.tokens[shard.offsets[i] : shard.offsets[i + 1]], *shard.tail]
        if prompt is None:
            whole = tokenizer.encode(QUERY, document)
        else:
            text = prompt.format(query=QUERY, document=document, instruction=model.instruction)
            whole = tokenizer.encode(text, add_special_tokens=False)
        assert ours == whole.ids


@pytest.mark.parametrize("name", NAMES)
def test_every_row_tells_what_is_read_of_a_document(name: str, tmp_path: Path) -> None:
    """Also where its template strips the texts, or puts white space around them."""
    save_small_files(name, tmp_path)
    model = model_of(tmp_path, of=name)
    renderer = PromptRenderer.of(find_checkpoint(model), model)
    document = "  " + " ".join(f"word{number}" for number in range(200)) + " \n"
    for side in ("end", "start"):
        cutting = CuttingPolicy(side=side, max_document_tokens=60)
        start, end = renderer.part_read(QUERY, document, "", cutting)
        text = document[start:end].strip()
        assert (document.strip().startswith(text), document.strip().endswith(text)) == (side == "end", side == "start")
        assert 1 < len(text.split()) <= 60


@pytest.mark.parametrize("name", [one.name for one in FAMILIES if one.names])
def test_known_name_is_enough_where_the_files_say_nothing(name: str, tmp_path: Path) -> None:
    """The published folders from before Sentence Transformers 5.4 have nothing else."""
    published = {
        "qwen3-reranker": "Qwen3-Reranker-0.6B",
        "qwen3-vl-reranker": "Qwen3-VL-Reranker-2B",
        "zerank": "zerank-1-small",
        "mxbai-rerank-v2": "mxbai-rerank-large-v2",
    }
    own = name.removesuffix("-seq-cls")
    folder = tmp_path / (published.get(own, own) + name.removeprefix(own))
    folder.mkdir()
    save_small_files(name, folder)
    _forget(folder)
    assert find_checkpoint(model_of(folder, of=name)).family == BY_NAME[name]


def test_instruction_of_the_models_card_is_asked_for_where_it_is_another(tmp_path: Path) -> None:
    save_small_files("qwen3-vl-reranker", tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"default instruction is 'Given a search query, .*set model.inst"):
        find_checkpoint(ModelConfig(name=str(tmp_path)))


def test_model_that_reads_images_too_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded, by the engine's process: an ingress does without."""
    save_small_files("qwen3-vl-reranker", tmp_path)
    checkpoint = find_checkpoint(model_of(tmp_path, of="qwen3-vl-reranker"))
    monkeypatch.setattr("reranker.engine.vllm.find_spec", lambda name: None)
    locked = next(one for one in Path("requirements/gpu.txt").read_text().splitlines() if one.startswith("torchvision"))
    for device, build in (("cpu", r"\+cpu --index-url https\S+/whl/cpu`"), ("cuda", "`")):
        with pytest.raises(UnsupportedModelError, match=f"pip install --no-deps {locked.split()[0]}{build} where"):
            VllmEngine(checkpoint, EngineConfig(), device=device)


def _forget(folder: Path) -> None:
    for file in ("chat_template.jinja", "modules.json"):
        (folder / file).unlink(missing_ok=True)


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _other_suffix(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<think>\n\n</think>\n\n", ""))


def _modules(*kinds: str) -> Callable[[Path], object]:
    types = (f"sentence_transformers.{kind}" for kind in kinds)
    modules = [{"path": f"{i}_module" if i else "", "type": one} for i, one in enumerate(types)]
    return lambda folder: (folder / "modules.json").write_text(json.dumps(modules))


def _weights(*names: str) -> Callable[[Path], None]:
    return lambda folder: save_file({name: np.zeros(1) for name in names}, folder / "model.safetensors")


def _config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **values)


def _answer(*tokens: str) -> Callable[[Path], None]:
    return lambda folder: save_answer(tokens, _tokenizer(folder), folder)


def _no_tokens(folder: Path) -> None:
    change_json(folder / "tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[])


def _adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    change_json(folder / "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-Reranker-0.6B")


def _prompted(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    change_json(path, prompts={"q": "query: "}, default_prompt_name="q")


def _untie(folder: Path) -> None:
    _weights("model.norm.weight")(folder)
    _config(tie_word_embeddings=False)(folder)


LAYERS = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(2)]
TRAPS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "chat model": (
        "qwen3-reranker",
        _forget,
        "says that it is a reranker.*model.family: qwen3-reranker or z",
    ),
    "chat template": (
        "qwen3-reranker",
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('unknown role') }}"),
        "says that it is a reranker",
    ),
    "one label and no reranker": ("qwen3-reranker-seq-cls", _forget, "says that it is a reranker"),
    "another prompt": ("zerank", lambda folder: (folder / "chat_template.jinja").write_text(CHAT), "another prompt"),
    "no suffix": ("qwen3-reranker", _other_suffix, "another prompt"),
    "wrong tokens": (
        "qwen3-reranker",
        _answer("yes", "no"),
        "read at 'yes' and 'no', that of qwen3-reranker at 'no' and 'yes'",
    ),
    "one token of two": (
        "qwen3-reranker",
        lambda folder: save_answer(("yes",), _tokenizer(folder), folder),
        "at 'yes'",
    ),
    "no such answer": (
        "mxbai-rerank-v2",
        _no_tokens,
        "no token '0'",
    ),
    "two labels": (
        "bert",
        _config(id2label={"0": "a", "1": "b"}),
        "2 labels",
    ),
    "labels not said": ("bert", _config(id2label=None), "2 labels"),
    "no model_type": (
        "xlm-roberta",
        _config(model_type=None),
        "no model_type",
    ),
    "embedding model": ("qwen3-reranker-seq-cls", _modules("Transformer", "Pooling"), "not have .Pooling"),
    "prompt before texts": (
        "bert",
        _prompted,
        "a prompt goes before",
    ),
    "ettin": (
        "modernbert",
        _config(architectures=["ModernBertModel"]),
        "ettin",
    ),
    "unknown": (
        "bert",
        _config(architectures=["T5"]),
        "Known are Qwen3ForCausalLM",
    ),
    "no head": (
        "qwen3-reranker-seq-cls",
        _weights("model.norm.weight", *LAYERS),
        "no score.weight",
    ),
    "no pooler": ("bert", _weights("classifier.weight"), "no bert.pooler.dense.weight"),
    "weight without a layer": (
        "qwen3-reranker-seq-cls",
        _weights("score.weight", "model.vision.weight", *LAYERS),
        "no layer takes its weight model.vision.weight",
    ),
    "layer too few": (
        "qwen3-reranker-seq-cls",
        _weights("score.weight", *LAYERS[:1]),
        r"no model.embed_tokens.weight \(\d+ such\)",
    ),
    "no lm_head": (
        "qwen3-reranker",
        _untie,
        "no lm_head.weight",
    ),
    "torn weights": (
        "bert",
        lambda folder: (folder / "model.safetensors").write_bytes(b"no"),
        "is damaged",
    ),
    "adapter": (
        "qwen3-reranker",
        _adapter,
        "an adapter: set model.name to 'Qwen/Qwen3-Reranker-0.6B'",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_trap_is_refused_with_its_cause(trap: str, tmp_path: Path) -> None:
    name, spoil, cause = TRAPS[trap]
    save_small_files(name, tmp_path)
    find_checkpoint(ModelConfig(name=str(tmp_path)))
    spoil(tmp_path)
    with pytest.raises(UnsupportedModelError, match=cause):
        find_checkpoint(ModelConfig(name=str(tmp_path)))


def test_family_that_is_asked_for_serves_what_says_nothing(tmp_path: Path) -> None:
    save_small_files("zerank", tmp_path)
    _forget(tmp_path)
    assert find_checkpoint(ModelConfig(name=str(tmp_path), family="ctxl-rerank-v2")).family.answer == ("!",)


@pytest.mark.parametrize(
    ("name", "asked", "cause"),
    [
        ("zerank", "ctxl-rerank-v2", "template is that of zerank"),
        ("zerank", "bert", "template is that of zerank"),
        ("bert", "zerank", "architecture is that of bert"),
    ],
)
def test_family_that_is_asked_for_does_not_win_against_the_files(
    name: str, asked: str, cause: str, tmp_path: Path
) -> None:
    save_small_files(name, tmp_path)
    with pytest.raises(UnsupportedModelError, match=cause):
        find_checkpoint(ModelConfig(name=str(tmp_path), family=asked))


def test_family_that_is_asked_for_wins_against_a_template_of_none(tmp_path: Path) -> None:
    save_small_files("qwen3-reranker-seq-cls", tmp_path)
    _other_suffix(tmp_path)
    found = find_checkpoint(ModelConfig(name=str(tmp_path), family="qwen3-reranker-seq-cls"))
    assert found.family == BY_NAME["qwen3-reranker-seq-cls"]


def test_template_for_any_role_says_nothing_beside_a_name(tmp_path: Path) -> None:
    """Of a folder from before Sentence Transformers 5.4, where it makes no prompt for pairs."""
    folder = tmp_path / "Qwen3-Reranker-4B"
    folder.mkdir()
    save_small_files("qwen3-reranker", folder)
    (folder / "modules.json").unlink()
    (folder / "chat_template.jinja").write_text(CHAT)
    assert find_checkpoint(ModelConfig(name=str(folder))).family == BY_NAME["qwen3-reranker"]


def test_template_may_have_the_cards_instruction_as_its_default(tmp_path: Path) -> None:
    save_small_files("qwen3-reranker", tmp_path)
    path = tmp_path / "chat_template.jinja"
    path.write_text(re.sub(r"Instruct>: {{.*}}", f"Instruct>: {ModelConfig().instruction}", path.read_text()))
    model = ModelConfig(name=str(tmp_path))
    assert not PromptRenderer.of(find_checkpoint(model), model).takes_instruction


def test_template_that_strips_the_texts_is_followed(tmp_path: Path) -> None:
    save_small_files("zerank", tmp_path)
    path = tmp_path / "chat_template.jinja"
    path.write_text(path.read_text().replace("| first }}", "| first | trim }}"))
    model = ModelConfig(name=str(tmp_path))
    renderer = PromptRenderer.of(find_checkpoint(model), model)
    padded, plain = renderer.render(" q\n", ["\n a "]).prompts, renderer.render("q", ["a"]).prompts
    assert [*padded.head, *padded.tokens] == [*plain.head, *plain.tokens]


@pytest.mark.parametrize(
    ("file", "values"),
    [("tokenizer_config.json", {"model_max_length": 100}), ("sentence_bert_config.json", {"max_seq_length": 100})],
)
def test_longest_pair_is_the_smallest_limit_of_all_files(file: str, values: dict[str, int], tmp_path: Path) -> None:
    save_small_files("modernbert", tmp_path)
    assert find_checkpoint(ModelConfig(name=str(tmp_path))).max_pair_tokens == 2048
    change_json(tmp_path / file, **values)
    assert find_checkpoint(ModelConfig(name=str(tmp_path))).max_pair_tokens == 100


def test_roberta_counts_positions_from_behind_its_padding() -> None:
    assert max_tokens({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert max_tokens({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512
    assert max_tokens({}) is None


def test_token_types() -> None:
    assert has_token_types({"type_vocab_size": 2})
    assert not has_token_types({"type_vocab_size": 1})
    assert not has_token_types({})


def test_scale_is_a_part_of_the_cache_key(tmp_path: Path) -> None:
    save_small_files("zerank", tmp_path)
    template = BY_NAME["zerank"].template
    one, five = (PromptRenderer(tmp_path, 512, "", template, scale) for scale in (1, 5))
    assert one.fingerprint != five.fingerprint
