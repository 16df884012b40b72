"""Two engines have the same identity only if they give a pair the same score."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.model import checkpoint as checkpoints
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint, model_identity


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
        _identity(model, quantization="fp8"),
        _identity(model, tensor_parallel_size=2),
        _identity(model, vllm_args={"enforce_eager": False}),
        _identity(model, lora_adapter=str(adapter)),
    }
    (adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    identities.add(_identity(model, lora_adapter=str(adapter)))
    monkeypatch.setattr(checkpoints, "version", lambda name: "another")
    identities.add(_identity(model))
    assert len(identities) == 12


def test_service_without_vllm_has_an_identity_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checkpoints, "version", missing)
    assert _identity(model)


def test_settings_that_change_no_score_do_not_count(model: Path) -> None:
    """Scores survive a change of batch sizes."""
    assert _identity(model, max_batch_tokens=64, cpus=2) == _identity(model)
