"""A LoRA adapter through real vLLM: as if it were merged into the weights, or refused before an engine starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reranker.config import EngineConfig, ModelConfig
from reranker.engine.vllm import VllmEngine, engine_args
from reranker.errors import UnsupportedModelError
from reranker.model.adapter import find_adapters
from reranker.model.checkpoint import DEMO_MODEL, Checkpoint, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.types import FloatArray, Shard
from tests.models import save_converted_demo, save_cross_encoder, save_int8_demo

pytestmark = pytest.mark.filterwarnings("ignore")
QUERY = "What is the capital of China?"
DOCUMENTS = ["The capital of China is Beijing.", "Gravity is a force.", "", "中国的首都是北京。", "capital " * 300]
RANK, ALPHA = 4, 8
SIZES = {"q_proj": (224, 256), "v_proj": (224, 256), "o_proj": (256, 224)}  # the demo model's: goes in, comes out
LAYER = "base_model.model.model.layers"


def _save_adapter(
    folder: Path,
    *,
    head: bool = False,
    seed: int = 1,
    rename: Callable[[str], str] = str,
    sizes: dict[str, Any] = SIZES,
    **config: Any,
) -> dict[str, Any]:
    """Write a random adapter; its tensors, by name. head: one of its own, as trained for a classifier."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(3):
        for matrix, (goes_in, comes_out) in sizes.items():
            name = rename(f"{LAYER}.{layer}.self_attn.{matrix}")
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, goes_in) * 0.05
            tensors[f"{name}.lora_B.weight"] = torch.randn(comes_out, RANK) * 0.05
    if head:
        tensors["base_model.model.score.weight"] = torch.randn(1, 224)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(sizes), "bias": "none"}
    if head:
        settings |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return tensors


def _reference(shard: Shard, adapter: dict[str, Any]) -> FloatArray:
    """The demo model's logits by plain Transformers, the adapter added to the weights by hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    yes, no = AutoTokenizer.from_pretrained(DEMO_MODEL).convert_tokens_to_ids(["yes", "no"])
    head = adapter.get("base_model.model.score.weight", (model.lm_head.weight[yes] - model.lm_head.weight[no])[None])
    logits = []
    with torch.no_grad():
        for name in adapter:
            if name.endswith(".lora_A.weight"):
                matrix = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                added = adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
                model.get_submodule(matrix).weight += ALPHA / RANK * added
        for i in range(len(shard)):
            document = shard.tokens[shard.offsets[i] : shard.offsets[i + 1]]
            prompt = np.concatenate([shard.head, document, shard.tail])
            last = model.model(torch.tensor(prompt[None], dtype=torch.long)).last_hidden_state[0, -1]
            logits.append((head @ last).item())
    return np.array(logits, dtype=np.float32)


@pytest.mark.parametrize("converted", [False, True], ids=["as published", "classifier, with the adapter's own head"])
async def test_adapter_is_applied_as_if_merged(converted: bool, tmp_path: Path) -> None:
    model = DEMO_MODEL
    if converted:
        save_converted_demo(model := tmp_path)
    adapter = _save_adapter(tmp_path / "adapter", head=converted)
    checkpoint = find_checkpoint(ModelConfig(name=str(model), dtype="float32"))
    shard = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction).render(QUERY, DOCUMENTS).prompts
    engine = VllmEngine(checkpoint, EngineConfig(lora_adapter=str(tmp_path / "adapter")), device="cpu")
    try:
        first, again = await engine.score(shard), await engine.score(shard)  # the second from the prefix cache
    finally:
        engine.shutdown()
    merged, base = _reference(shard, adapter), _reference(shard, {})
    assert np.abs(merged - base).min() > 0.1  # so agreement means something
    np.testing.assert_allclose(first, merged, atol=2e-3)
    np.testing.assert_allclose(again, merged, atol=2e-3)


@pytest.mark.parametrize("converted", [False, True], ids=["as published", "classifier, each adapter with its own head"])
async def test_adapters_in_one_batch_score_as_if_each_were_merged(converted: bool, tmp_path: Path) -> None:
    """VLLM's pooling path takes an adapter for each request: pairs of several and of none share the engine's steps."""
    model = DEMO_MODEL
    if converted:
        save_converted_demo(model := tmp_path)
    adapters = {name: _save_adapter(tmp_path / name, head=converted, seed=i) for i, name in enumerate("ab", start=1)}
    checkpoint = find_checkpoint(ModelConfig(name=str(model), dtype="float32"))
    rendered = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction).render(QUERY, DOCUMENTS)
    config = EngineConfig(lora_adapters={name: str(tmp_path / name) for name in adapters}, target_step_s=None)
    engine = VllmEngine(checkpoint, config, device="cpu")
    lists = {name: rendered.for_adapter(name).prompts for name in ("", *adapters)}
    try:
        mixed = await asyncio.gather(*(engine.score(shard) for _ in range(3) for shard in lists.values()))
        alone = [await engine.score(shard) for shard in lists.values()]  # from the prefix cache: each its own
        stranger = replace(rendered.prompts, adapter="none of these")
        with pytest.raises(RuntimeError, match="refused a prompt"):
            await engine.score(stranger)
        assert engine.healthy
    finally:
        engine.shutdown()
    wanted = [_reference(rendered.prompts, adapters.get(name, {})) for name in lists]
    for i, one in enumerate(wanted):
        for other in wanted[:i]:
            assert np.abs(one - other).min() > 0.1  # so agreement means something
    for i, logits in enumerate([*mixed, *alone]):
        np.testing.assert_allclose(logits, wanted[i % len(wanted)], atol=2e-3)


def _demo() -> Checkpoint:
    return find_checkpoint(ModelConfig())


def test_engine_has_room_for_the_adapters_largest_rank(tmp_path: Path) -> None:
    _save_adapter(tmp_path / "large", rank_pattern={"q_proj": 20})
    _save_adapter(tmp_path / "small")
    config = EngineConfig(lora_adapters={name: str(tmp_path / name) for name in ("small", "large")})
    adapters = find_adapters(_demo(), config, "cpu")
    arguments = engine_args(_demo(), config, device="cpu", adapters=adapters)
    assert (arguments["enable_lora"], arguments["max_loras"], arguments["max_lora_rank"]) == (True, 3, 32)
    assert "enable_lora" not in engine_args(_demo(), EngineConfig(), device="cpu")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not that of a LoRA adapter"),
        (lambda folder: _save_adapter(folder, peft_type="IA3"), "not that of a LoRA adapter"),
        (lambda folder: _save_adapter(folder, r="four"), r"rank \(r\) is four"),
        (lambda folder: _save_adapter(folder, r=1024), "known are 1 to 512"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"{}" * 9), "not a safetensors file"),
        (lambda folder: _save_adapter(folder, sizes={}), "none of its tensors"),
        (lambda folder: _save_adapter(folder, sizes={"v_proj": (128, 256)}), "that of another model"),
        (lambda folder: _save_adapter(folder, sizes={"o_proj": (256, 64)}), "that of another model"),
        (lambda folder: _save_adapter(folder, rename=lambda name: name.replace("2", "3")), "layers.3.* has no place"),
        (lambda folder: _save_adapter(folder, head=True), "score.weight has no place"),  # this model has no such head
    ],
)
def test_unsuitable_adapter_is_refused_with_its_reason(
    tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    _save_adapter(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UnsupportedModelError, match=reason):
        VllmEngine(_demo(), EngineConfig(lora_adapter=str(tmp_path)), device="cpu")


def test_adapter_of_the_language_models_head_is_refused(tmp_path: Path) -> None:
    """A reranker has no such head, and vLLM would leave these weights out without a word."""
    _save_adapter(tmp_path, rename=lambda name: "base_model.model.lm_head" if ".2." in name else name)
    with pytest.raises(UnsupportedModelError, match=r"lm_head.* has no place"):
        VllmEngine(_demo(), EngineConfig(lora_adapter=str(tmp_path)), device="cpu")


def test_adapter_that_is_nowhere_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no/such/adapter.* no folder"):
        VllmEngine(_demo(), EngineConfig(lora_adapter="no/such/adapter"), device="cpu")


def test_adapter_on_a_quantized_model_is_refused_on_a_cpu(tmp_path: Path) -> None:
    save_int8_demo(tmp_path)
    checkpoint = find_checkpoint(ModelConfig(name=str(tmp_path)))
    with pytest.raises(UnsupportedModelError, match="without quantization"):
        VllmEngine(checkpoint, EngineConfig(lora_adapter=str(tmp_path)), device="cpu")


def test_adapter_of_a_model_without_its_head_fits(tmp_path: Path) -> None:
    """PEFT names the matrices so when it was given the bare model (AutoModel); vLLM reads both."""
    _save_adapter(tmp_path, rename=lambda name: name.replace("model.model.layers", "model.layers"))
    assert find_adapters(_demo(), EngineConfig(lora_adapter=str(tmp_path)), "cpu")[""].max_rank == 8


def test_adapter_for_a_cross_encoder_is_refused(tmp_path: Path) -> None:
    save_cross_encoder("bert", tmp_path)
    checkpoint = find_checkpoint(ModelConfig(name=str(tmp_path)))
    with pytest.raises(UnsupportedModelError, match="needs a Qwen3 model"):
        VllmEngine(checkpoint, EngineConfig(lora_adapter=str(tmp_path)), device="cpu")
