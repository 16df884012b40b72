"""INT8 layers on a CPU whose own INT8 arithmetic is not exact.

vLLM leaves the products to oneDNN. Without the VNNI instructions (most AMD before Zen 4, Intel before 2019) that adds
pairs of them in 16 bits, where 2 x 127 x 127 does not fit: it saturates, and nobody is told. Seen with the demo model:
scores off by 0.95. https://uxlfoundation.github.io/oneDNN/dev_guide_int8_computations.html
"""

from __future__ import annotations

import functools

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.kernels.linear import _POSSIBLE_INT8_KERNELS, CPUInt8ScaledMMLinearKernel
from vllm.platforms import PlatformEnum


def register() -> None:
    """Have vLLM prefer the exact kernel where its own is not; twice does no harm."""
    kernels = _POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]
    if ExactInt8Kernel not in kernels:
        kernels.insert(0, ExactInt8Kernel)


@functools.cache
def saturates() -> bool:
    """Try whether a product of large INT8 numbers is wrong in vLLM's kernel on this CPU."""
    wide, largest = 64, 127
    numbers = torch.full((wide, wide), largest, dtype=torch.int8)
    scale, out = torch.ones(wide, 1), torch.empty(wide, wide)
    handler = ops.create_onednn_scaled_mm(numbers.t(), scale, torch.float32, True, False)
    ops.onednn_scaled_mm(handler, numbers, out, scale, None, None, None)
    return not bool((out == wide * largest**2).all())


class ExactInt8Kernel(CPUInt8ScaledMMLinearKernel):  # type: ignore[misc]  # vllm is untyped here
    """The same quantization, multiplied in float32, which is exact up to sums of 2**24 and rounds beyond.

    The weights stay in INT8; each batch turns them into float32, a layer at a time.
    """

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Say no where vLLM's own kernel, which is faster, is right."""
        supported, reason = super().is_supported(compute_capability)
        if supported and not saturates():
            return False, "vLLM's kernel is exact on this CPU."
        return supported, reason

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Take vLLM's scales and zero points, and the weights as they were: what it packs is for oneDNN."""
        name = self.layer_param_names[0]
        weight = getattr(layer, name).data
        self.process_weights_for_onednn(layer)
        del self.dnnl_handler
        setattr(layer, name, torch.nn.Parameter(weight, requires_grad=False))

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply activations of shape (…, inputs) with the weights; the result has the shape (…, outputs)."""
        weight, weight_scale, scale, zero_point, _ = self._get_layer_params(layer)
        quantized, scale, zero_point = ops.onednn_scaled_int8_quant(
            x.reshape(-1, x.shape[-1]), scale, zero_point, self.config.input_symmetric
        )
        numbers = quantized.float()
        if zero_point is not None:
            numbers -= zero_point
        out = (numbers @ weight.float().t()) * scale * weight_scale.view(1, -1)
        if bias is not None:
            out += bias
        return out.to(x.dtype).view(*x.shape[:-1], -1)
