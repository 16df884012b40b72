"""Kernels for vLLM's CPU build: exact INT8 products where the CPU has none, and fused RMSNorm.

INT8: vLLM leaves the products to oneDNN. Without the VNNI instructions (most AMD before Zen 4, Intel before 2019)
oneDNN adds pairs of them in 16 bits, where 2 x 127 x 127 does not fit, and the sum saturates. Seen with the demo model:
scores off by 0.95. https://uxlfoundation.github.io/oneDNN/dev_guide_int8_computations.html

RMSNorm: the CPU build has the kernels but leaves fusing to a compiler, which we do not use. A norm is then up to eight
passes of PyTorch over the activations: docs/decisions/0005-engine-core.md.
"""

import functools

import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm import ir
from vllm.model_executor.kernels.linear import _POSSIBLE_INT8_KERNELS, CPUInt8ScaledMMLinearKernel
from vllm.platforms import PlatformEnum, current_platform


def register_kernels(provider: str) -> None:
    """Register our kernels with vLLM, the norms by this name in `ir_op_priority`; the second call does nothing."""
    if provider in ir.ops.rms_norm.impls:
        return
    # vLLM takes the first kernel of this list that is supported: ours, where its own is not exact.
    _POSSIBLE_INT8_KERNELS[PlatformEnum.CPU].insert(0, ExactInt8Kernel)
    current_platform.import_kernels()
    supported = hasattr(torch.ops._C, "rms_norm")
    norm, add_norm = ir.ops.rms_norm, ir.ops.fused_add_rms_norm
    norm.register_impl(provider, supported=supported, supports_args=_plain)(_rms_norm)
    add = add_norm.register_impl(provider, supported=supported, supports_args=_plain_residual, inplace=True)
    add(_add_rms_norm)


@functools.cache
def saturates() -> bool:
    """Whether vLLM's kernel gets a product of large INT8 numbers wrong on this CPU."""
    wide, largest = 64, 127
    numbers = torch.full((wide, wide), largest, dtype=torch.int8)
    scale, out = torch.ones(wide, 1), torch.empty(wide, wide)
    handler = ops.create_onednn_scaled_mm(numbers.t(), scale, torch.float32, True, False)
    ops.onednn_scaled_mm(handler, numbers, out, scale, None, None, None)
    return not bool((out == wide * largest**2).all())


class ExactInt8Kernel(CPUInt8ScaledMMLinearKernel):  # type: ignore[misc]  # vllm is untyped here
    """Multiplies in float32, which is exact up to sums of 2**24. The weights stay in INT8 between batches."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Leave the work to vLLM's own kernel, which is faster, where it is exact."""
        supported, reason = super().is_supported(compute_capability)
        if supported and not saturates():
            return False, "vLLM's kernel is exact on this CPU."
        return supported, reason

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Take vLLM's scales and zero points, but not its weights, which it packs for oneDNN."""
        name = self.layer_param_names[0]
        weight = getattr(layer, name).data
        self.process_weights_for_onednn(layer)
        del self.dnnl_handler
        setattr(layer, name, torch.nn.Parameter(weight, requires_grad=False))

    def apply_weights(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
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


def _plain(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype


def _plain_residual(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    contiguous = x.is_contiguous() and x_residual.is_contiguous() and x.dtype == x_residual.dtype
    return contiguous and _plain(x, weight, epsilon, variance_size)


def _rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(out, x.contiguous(), weight, epsilon)
    return out


def _add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
