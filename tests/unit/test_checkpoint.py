"""A model we cannot score with must be refused with a sentence, before an engine takes minutes to load it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reranker.config import ModelConfig
from reranker.errors import ModelNotFoundError, UnsupportedModelError
from reranker.model.checkpoint import DEMO_MODEL, find_checkpoint


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """The demo model's small files, to be spoilt."""
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    return tmp_path


def _change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_demo_model_is_served_exactly_where_attention_is_exact() -> None:
    """On CUDA float32 would be rounded to 10 bits within attention, and not outside it."""
    checkpoint = find_checkpoint(ModelConfig())
    assert checkpoint.served_name == "demo"
    assert [checkpoint.dtype_on(device) for device in ("cpu", "cuda")] == ["float32", "float16"]


def test_demo_model_follows_an_explicit_dtype() -> None:
    assert find_checkpoint(ModelConfig(dtype="bfloat16")).dtype_on("cuda") == "bfloat16"


def test_folder_is_served_under_its_own_name(model_folder: Path) -> None:
    checkpoint = find_checkpoint(ModelConfig(name=str(model_folder)))
    assert (checkpoint.served_name, checkpoint.dtype_on("cuda")) == (model_folder.name, "auto")
    assert checkpoint.max_pair_tokens == 8_192


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: _change(folder, architectures=["BertModel"]), "BertModel"),
        (lambda folder: _change(folder, max_position_embeddings=None), "max_position_embeddings"),
    ],
)
def test_unsuitable_model_is_refused_with_its_reason(model_folder: Path, spoil: Any, reason: str) -> None:
    spoil(model_folder)
    with pytest.raises(UnsupportedModelError, match=reason):
        find_checkpoint(ModelConfig(name=str(model_folder)))


@pytest.mark.parametrize("name", ["./no/such/folder", "no-such-owner/no-such-model"])
def test_model_that_is_nowhere_says_what_to_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is switched off: its answer must not depend on this machine's network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="local folder, a hub id"):
        find_checkpoint(ModelConfig(name=name))
