"""vLLM's own kernels for RMSNorm, where the item LM runs on CPUs.

vLLM has them compiled for CPUs too, and takes them on GPUs only; on CPUs each norm is six or seven
operations of torch, and a small model spends a good part of a step in them.

Registered by vLLM's interface for implementations of its operations, in whichever process imports
this; an engine uses them if `PRIORITY` is among its arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import ir
from vllm.platforms import current_platform

PROVIDER = "heliograph_cpu"

PRIORITY = {"rms_norm": [PROVIDER, "native"], "fused_add_rms_norm": [PROVIDER, "native"]}
"""Of `EngineArgs.ir_op_priority`."""

current_platform.import_kernels()
_ARE_BUILT = all(hasattr(torch.ops._C, name) for name in PRIORITY)


def _suits(x: Tensor, weight: Tensor | None, variance_size: int | None) -> bool:
    """Whether the kernels can do it: rows without gaps, normalised as a whole, in one type."""
    is_whole = variance_size is None and weight is not None and weight.dtype == x.dtype
    return is_whole and x.is_contiguous()


def _suits_rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _suits(x, weight, variance_size)


def _suits_fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _suits(x, weight, variance_size) and x_residual.is_contiguous()


@ir.ops.rms_norm.register_impl(PROVIDER, supported=_ARE_BUILT, supports_args=_suits_rms_norm)
def rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> Tensor:
    """Return x over the root of its mean square, times the weight."""
    normalised = torch.empty_like(x)
    torch.ops._C.rms_norm(normalised, x, weight, epsilon)
    return normalised


@ir.ops.fused_add_rms_norm.register_impl(
    PROVIDER, supported=_ARE_BUILT, supports_args=_suits_fused_add_rms_norm, inplace=True
)
def fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the norm of the sum and the sum, in the place of what was added."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
