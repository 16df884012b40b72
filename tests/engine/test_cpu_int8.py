"""INT8 layers on a CPU: whichever kernel vLLM takes here, and ours by name, against the same sums in float64."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")

_TOKENS, _INPUTS, _OUTPUTS = 5, 96, 48


@pytest.mark.parametrize("ours", [False, True], ids=["chosen", "ours"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero point"])
@pytest.mark.parametrize("static", [False, True], ids=["scale per token", "one scale"])
def test_products_are_exact(monkeypatch: pytest.MonkeyPatch, ours: bool, symmetric: bool, static: bool) -> None:
    """Numbers as large as INT8 has, of one sign: where 16 bits do not do."""
    from vllm.model_executor.kernels.linear import init_int8_linear_kernel
    from vllm.platforms import current_platform

    from reranker.engine import vllm_cpu

    if ours:
        monkeypatch.setattr(vllm_cpu, "saturates", lambda: True)
    current_platform.import_kernels()
    vllm_cpu.register_kernels("reranker")
    draw = torch.Generator().manual_seed(0)
    layer = torch.nn.Module()
    weight = torch.randint(100, 128, (_OUTPUTS, _INPUTS), dtype=torch.int8, generator=draw)
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(torch.rand(_OUTPUTS, 1, generator=draw) / 100, requires_grad=False)
    layer.logical_widths = [_OUTPUTS]
    layer.input_scale = torch.nn.Parameter(torch.tensor(0.01), requires_grad=False) if static else None
    zero = torch.nn.Parameter(torch.tensor(-7, dtype=torch.int32), requires_grad=False)
    layer.input_zero_point = zero if static and not symmetric else None
    x, bias = torch.rand(_TOKENS, _INPUTS, generator=draw) + 0.2, torch.rand(_OUTPUTS, generator=draw)
    kernel = init_int8_linear_kernel(True, static, symmetric, "here")
    kernel.process_weights_after_loading(layer)

    out = kernel.apply_weights(layer, x.view(1, _TOKENS, _INPUTS), bias)

    assert isinstance(kernel, vllm_cpu.ExactInt8Kernel) or not ours
    exact = x.double() @ (weight.double() * layer.weight_scale.double().view(-1, 1)).t() + bias
    assert out.shape == (1, _TOKENS, _OUTPUTS)
    assert torch.allclose(out[0].double(), exact, rtol=0.01)
