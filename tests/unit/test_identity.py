"""Two engines have the same identity only if they give a pair the same score."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reranker.config import EngineConfig, ModelConfig, SimulatedConfig
from reranker.model import checkpoint as checkpoints
from reranker.model.checkpoint import DEMO_MODEL, Checkpoint, deployed_model, find_checkpoint, model_identity
from reranker.model.families import PromptTemplate
from reranker.model.prompt import PromptRenderer
from tests.zoo import save_spaced_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    return folder


def _identity(model: Path, **config: Any) -> str:
    return model_identity(find_checkpoint(ModelConfig(name=str(model))), EngineConfig(**config), "cpu", "prompts")


def test_identity_is_that_of_the_content_and_not_of_the_place(model: Path, tmp_path: Path) -> None:
    """Two nodes with the same model share their scores, whenever it was copied there."""
    elsewhere = tmp_path / "elsewhere" / "model"
    shutil.copytree(model, elsewhere)
    os.utime(elsewhere / "config.json", (1, 1))
    assert _identity(model) == _identity(elsewhere)


def test_one_changed_weight_is_another_model(model: Path) -> None:
    """Of the same size, under the same name, at the same time: a fine-tuned model may look just so."""
    before = _identity(model)
    weights = model / "model.safetensors"
    time = weights.stat().st_mtime_ns
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(time, time))
    assert _identity(model) != before


def _of_other_families(checkpoint: Checkpoint) -> Sequence[Checkpoint]:
    """As with another `model.family`: the same files under another name, and read at other answers."""
    family = checkpoint.family
    return [replace(checkpoint, family=replace(family, **one)) for one in ({"name": "a"}, {"answer": ("a", "b")})]


def test_scale_and_stripping_of_a_family_are_in_the_prompts_that_count(tmp_path: Path) -> None:
    save_spaced_tokenizer(tmp_path)
    prompt = partial(PromptTemplate, text="q: {query}\nd: {document}\n")
    ways = ((prompt, 1.0), (prompt, 5.0), (partial(prompt, strips=True), 1.0))
    renderers = [PromptRenderer(tmp_path, 512, "", template, scale, few=True) for template, scale in ways]
    assert len({one.fingerprint for one in renderers}) == 3


def test_prompts_count_alike_however_their_texts_are_encoded() -> None:
    """An ingress encodes many texts and an engine a few: the ingress would know no engine as its own."""
    few, many = (PromptRenderer.of(find_checkpoint(ModelConfig()), ModelConfig(), few=few) for few in (True, False))
    assert few.fingerprint == many.fingerprint


def test_every_part_counts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    checkpoint = find_checkpoint(ModelConfig(name=str(model)))
    config = EngineConfig()
    identities = {
        model_identity(checkpoint, config, "cpu", "prompts"),
        model_identity(checkpoint, config, "cuda", "prompts"),
        model_identity(checkpoint, config, "cpu", "other prompts"),
        model_identity(replace(checkpoint, served_name="another"), config, "cpu", "prompts"),
        model_identity(replace(checkpoint, revision="a commit"), config, "cpu", "prompts"),
        model_identity(replace(checkpoint, dtype="bfloat16"), config, "cpu", "prompts"),
        *(model_identity(one, config, "cpu", "prompts") for one in _of_other_families(checkpoint)),
        _identity(model, quantization="fp8"),
        _identity(model, tensor_parallel_size=2),
        _identity(model, vllm_args={"enforce_eager": False}),
        _identity(model, lora_adapter=str(adapter)),
    }
    (adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    identities.add(_identity(model, lora_adapter=str(adapter)))
    monkeypatch.setattr(checkpoints, "vllm_distribution", lambda: SimpleNamespace(version="another"))
    identities.add(_identity(model))
    assert len(identities) == 14


def test_service_without_vllm_has_an_identity_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checkpoints, "distribution", missing)
    assert _identity(model)


def test_ingress_knows_its_own_engines_without_their_weights(model: Path, tmp_path: Path) -> None:
    """By what they were deployed with: every such setting counts, and nothing that changes no score."""
    checkpoint = find_checkpoint(ModelConfig(name=str(model)))
    own = deployed_model(checkpoint, EngineConfig(), "prompts")
    assert deployed_model(checkpoint, EngineConfig(max_batch_tokens=64, cpus=2), "prompts") == own
    others = [
        deployed_model(replace(checkpoint, name="another"), EngineConfig(), "prompts"),
        deployed_model(replace(checkpoint, revision="a commit"), EngineConfig(), "prompts"),
        deployed_model(replace(checkpoint, dtype="bfloat16"), EngineConfig(), "prompts"),
        *(deployed_model(one, EngineConfig(), "prompts") for one in _of_other_families(checkpoint)),
        deployed_model(checkpoint, EngineConfig(), "other prompts"),
        deployed_model(checkpoint, EngineConfig(quantization="fp8"), "prompts"),
        deployed_model(checkpoint, EngineConfig(tensor_parallel_size=2), "prompts"),
        deployed_model(checkpoint, EngineConfig(vllm_args={"enforce_eager": False}), "prompts"),
        deployed_model(checkpoint, EngineConfig(lora_adapter=str(tmp_path)), "prompts"),
        deployed_model(checkpoint, EngineConfig(lora_adapters={"medical": str(tmp_path)}), "prompts"),
        deployed_model(checkpoint, EngineConfig(simulated=SimulatedConfig()), "prompts"),
        deployed_model(checkpoint, EngineConfig(simulated=SimulatedConfig(score_seed=1)), "prompts"),
    ]
    assert len({one.deployed for one in [own, *others]}) == len(others) + 1
    assert [one.takes != own.takes for one in others].count(True) == 2  # other prompts, or more adapters
    assert [one.name for one in others[-2:]] == ["simulated", "simulated-1"]


def test_simulated_engines_differ_by_seed_and_prompts_only(model: Path) -> None:
    checkpoint = find_checkpoint(ModelConfig(name=str(model)))
    fast, slow, other = (
        EngineConfig(simulated=SimulatedConfig(tokens_per_s=speed, score_seed=seed))
        for speed, seed in ((2, 0), (1, 0), (1, 1))
    )
    assert model_identity(checkpoint, fast, "cpu", "prompts") == model_identity(checkpoint, slow, "cpu", "prompts")
    of_both = {model_identity(checkpoint, one, "cpu", prompts) for one in (slow, other) for prompts in ("one", "two")}
    assert len(of_both) == 4


def test_settings_that_change_no_score_do_not_count(model: Path) -> None:
    """Scores survive a change of batch sizes."""
    assert _identity(model, max_batch_tokens=64, cpus=2) == _identity(model)
