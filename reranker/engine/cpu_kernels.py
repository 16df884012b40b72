"""vLLM's RMSNorm kernels on a CPU. Its CPU build has them, but leaves fusing to a compiler, which we do without.

Without them a norm is up to eight passes of PyTorch's over the activations. See docs/decisions/0005-engine-core.md.
"""

from __future__ import annotations

import torch
from vllm import ir
from vllm.platforms import current_platform


def register(provider: str) -> None:
    """Make the kernels known to vLLM, in the process that holds the model; twice does no harm.

    Args:
        provider: The name under which vLLM's `ir_op_priority` finds them.
    """
    if provider in ir.ops.rms_norm.impls:
        return
    current_platform.import_kernels()
    there = hasattr(torch.ops._C, "rms_norm")
    norm, add_norm = ir.ops.rms_norm, ir.ops.fused_add_rms_norm
    norm.register_impl(provider, supported=there, supports_args=_plain)(_rms_norm)
    add_norm.register_impl(provider, supported=there, supports_args=_plain_with_residual, inplace=True)(_add_rms_norm)


def _plain(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype


def _plain_with_residual(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    contiguous = x.is_contiguous() and x_residual.is_contiguous() and x.dtype == x_residual.dtype
    return contiguous and _plain(x, weight, epsilon, variance_size)


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(out, x.contiguous(), weight, epsilon)
    return out


def _add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
