"""What an engine gets on each card where nothing is said: batches that fit, or a sentence where the model does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import SHAPES
from deployments.cli import config as cli_config
from deployments.cli import main
from reranker.config import EngineConfig, ModelConfig
from reranker.engine import cards
from reranker.engine.cards import CARDS, gpus_needed, require_room, settings_for, size_of_shape
from reranker.engine.device import Gpu, Machine
from reranker.engine.vllm import engine_args
from reranker.errors import DeviceError
from reranker.model.checkpoint import find_checkpoint
from tests.zoo import change_json, save_small_files

SIZES = {name: size_of_shape(SHAPES[name.lower()].config, "bfloat16") for name in ("0.6B", "4B", "8B")}
FP8 = {name: size_of_shape(SHAPES[name.lower()].config, "bfloat16", "fp8_per_channel") for name in SIZES}
SMALL = Gpu("NVIDIA RTX A4000", (8, 6), 16)


@pytest.mark.parametrize(("name", "gib"), [("0.6B", 1.1), ("4B", 7.5), ("8B", 14.1)])
def test_size_is_that_of_the_published_weights_without_the_untied_head(name: str, gib: float) -> None:
    size = SIZES[name]
    assert size is not None
    assert size.weights_gib == pytest.approx(gib, abs=0.1)
    assert size.kv_bytes == 2 * (28 if name == "0.6B" else 36) * 8 * 128 * 2
    in_fp8 = FP8[name]
    assert in_fp8 is not None
    assert in_fp8.weights_gib < 0.66 * size.weights_gib


def test_model_of_unusual_names_is_not_judged() -> None:
    assert size_of_shape({"n_layer": 3}, "auto") is None


@pytest.mark.parametrize(
    ("card", "tokens", "pairs", "graphs"),
    [
        ("T4", 4_096, 256, 512),
        ("A10G", 8_192, 512, 512),
        ("L4", 8_192, 512, 512),
        ("A100", 8_192, 512, 2_048),
        ("H100", 16_384, 512, 4_096),
        ("H200", 16_384, 512, 4_096),
        ("B200", 16_384, 512, 4_096),
    ],
)
def test_card_decides_what_is_not_configured(card: str, tokens: int, pairs: int, graphs: int) -> None:
    chosen = settings_for(EngineConfig(), CARDS[card], SIZES["0.6B"])
    assert (chosen.max_batch_tokens, chosen.max_batch_pairs) == (tokens, pairs)
    assert (chosen.gpu_memory_utilization, max(chosen.cuda_graph_tokens)) == (0.9, graphs)


def test_name_decides_where_memory_does_not() -> None:
    """An H20 has an H100's memory and capability, and a seventh of its arithmetic."""
    assert settings_for(EngineConfig(), Gpu("NVIDIA H20", (9, 0), 96)).max_batch_tokens == 8_192
    assert settings_for(EngineConfig(), Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 39.4)) == settings_for(
        EngineConfig(), CARDS["A100"]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_batch_tokens", 1_000),
        ("max_batch_pairs", 7),
        ("gpu_memory_utilization", 0.5),
        ("cuda_graph_tokens", (8,)),
        ("cuda_graph_tokens", ()),
    ],
)
def test_configuration_wins_and_changes_nothing_else(key: str, value: Any) -> None:
    by_card = settings_for(EngineConfig(), CARDS["H100"], SIZES["0.6B"])
    chosen = settings_for(EngineConfig.model_validate({key: value}), CARDS["H100"], SIZES["0.6B"])
    assert chosen == by_card._replace(**{key: value})


@pytest.mark.parametrize(
    ("card", "model", "tokens"),
    [("L4", "4B", 8_192), ("L4", "8B", 4_096), ("A10G", "8B", 4_096), ("H100", "8B", 16_384)],
)
def test_batches_under_way_leave_half_of_the_prefix_cache(card: str, model: str, tokens: int) -> None:
    size = SIZES[model]
    assert size is not None
    chosen = settings_for(EngineConfig(), CARDS[card], size)
    assert chosen.max_batch_tokens == tokens
    assert 2 * 2 * tokens <= cards.kv_tokens(size, CARDS[card], chosen.gpu_memory_utilization)


def test_vllm_is_told() -> None:
    checkpoint = find_checkpoint(ModelConfig())
    arguments = engine_args(checkpoint, EngineConfig(), device="cuda", gpu=CARDS["H100"])
    assert (arguments["max_num_batched_tokens"], arguments["max_num_seqs"]) == (16_384, 2 * 512)
    assert arguments["gpu_memory_utilization"] == 0.9
    graphs = arguments["compilation_config"]
    assert (graphs["cudagraph_mode"], max(graphs["cudagraph_capture_sizes"])) == ("PIECEWISE", 4_096)
    none = EngineConfig(cuda_graph_tokens=())
    arguments = engine_args(checkpoint, none, device="cuda", gpu=CARDS["H100"])
    assert arguments["compilation_config"] == {"cudagraph_mode": "NONE"}
    own = {"max_num_seqs": 3, "compilation_config": {"cudagraph_mode": "NONE"}}
    arguments = engine_args(checkpoint, EngineConfig(vllm_args=own), device="cuda", gpu=CARDS["H100"])
    assert own.items() <= arguments.items()
    assert "compilation_config" not in engine_args(checkpoint, EngineConfig(), device="cpu")


@pytest.mark.parametrize(
    ("gpu", "model", "count"),
    [(CARDS["L4"], "0.6B", 1), (CARDS["L4"], "4B", 1), (CARDS["A10G"], "8B", 1), (SMALL, "4B", 1), (SMALL, "8B", 2)],
)
def test_gpus_are_as_many_as_the_model_needs(gpu: Gpu, model: str, count: int) -> None:
    size = SIZES[model]
    assert size is not None
    assert gpus_needed(size, gpu) == count
    said = " ".join(cards.described(EngineConfig(tensor_parallel_size=2), gpu, size))
    assert ("a replica for each GPU" in said) == (count < 2)


def test_model_that_does_not_fit_is_refused_with_what_helps() -> None:
    size = SIZES["8B"]
    assert size is not None
    with pytest.raises(DeviceError, match=r"about 14 GiB, and NVIDIA RTX A4000 has 16: engine.tensor_parallel_size: 2"):
        require_room(EngineConfig(), SMALL, size)
    require_room(EngineConfig(tensor_parallel_size=2), SMALL, size)
    require_room(EngineConfig(), CARDS["L4"], size)
    huge = size._replace(weights_gib=30)
    with pytest.raises(DeviceError, match=r"2 would spread it, engine.quantization: fp8_per_channel halves them"):
        require_room(EngineConfig(), CARDS["L4"], huge)
    with pytest.raises(DeviceError, match="a smaller model or a larger card fits"):
        require_room(EngineConfig(), CARDS["L4"], size._replace(weights_gib=1_000))


def test_fp8_is_advised_by_its_name_where_the_card_computes_in_it() -> None:
    def said(card: str, quantization: str | None) -> str:
        return " ".join(cards.described(EngineConfig(quantization=quantization), CARDS[card], None))

    assert "fp8_per_channel" in said("L4", None)
    assert "no FP8 arithmetic" in said("A100", "fp8_per_tensor")
    assert "FP8" not in said("A100", None) + said("L4", "fp8_per_channel")


def test_commands_show_the_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "show", "--card", "H100"]) == 0
    assert "engine.max_batch_tokens: 16384 (by the device)" in capsys.readouterr().out
    machine = Machine("cuda", "13.0", (CARDS["H100"], CARDS["L4"]), "", "580.95.05", "13.0")
    monkeypatch.setattr("reranker.engine.device.here", lambda: machine)
    monkeypatch.setattr(cli_config, "here", lambda: machine)
    assert main.main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "model.dtype: float16" in shown
    assert "NVIDIA L4" in shown  # the smaller of the two


def test_machine_without_a_gpu_shows_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    text = Path("serve_config.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("args:", "args:\n      engine: {max_batch_pairs: 9}", 1), encoding="utf-8")
    assert main.main(["config", "show", "--config", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "engine.max_batch_tokens: 16384 (by the device)" in shown
    assert "engine.max_batch_pairs: 9 (configured)" in shown


def test_model_that_reads_images_too_is_as_large_as_its_half_that_reads_text(tmp_path: Path) -> None:
    """The other half is not loaded."""
    save_small_files("qwen3-vl-reranker", tmp_path)
    text = {**json.loads((tmp_path / "config.json").read_text())["text_config"], "vocab_size": 151_936}
    change_json(tmp_path / "config.json", text_config=text)
    checkpoint = find_checkpoint(ModelConfig(name=str(tmp_path), instruction="Find."))
    assert cards.size_of(checkpoint) == size_of_shape(text, "auto") is not None
    assert engine_args(checkpoint, EngineConfig(), device="cpu")["limit_mm_per_prompt"] == {"image": 0, "video": 0}
