"""vLLM's kernels for norms on CPUs, against what vLLM computes by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vllm import ir

from heliograph.ranking.cpu_norms import PRIORITY

EPSILON = 1e-5
KERNEL, OWN = PRIORITY["rms_norm"]


def inputs(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is to be normalised, what is added to it, and weights."""
    drawn = torch.Generator().manual_seed(rows * width)
    x, added = (torch.randn(rows, width, generator=drawn) for _ in range(2))
    return x, added, torch.rand(width, generator=drawn) + 0.5


@pytest.mark.parametrize(("rows", "width"), [(1, 32), (1, 64), (7, 96), (300, 128)])
def test_the_kernels_say_what_vllm_says(rows: int, width: int) -> None:
    x, added, weight = inputs(rows, width)
    norm = {name: impl.impl_fn for name, impl in ir.ops.rms_norm.impls.items()}
    torch.testing.assert_close(norm[KERNEL](x, weight, EPSILON), norm[OWN](x, weight, EPSILON))
    fused = {name: impl.impl_fn for name, impl in ir.ops.fused_add_rms_norm.impls.items()}
    expected = fused[OWN](x.clone(), added.clone(), weight, EPSILON)
    torch.testing.assert_close(fused[KERNEL](x, added, weight, EPSILON), expected)


def test_what_the_kernels_cannot_do_is_left_to_vllm() -> None:
    x, _, weight = inputs(8, 64)
    suits = ir.ops.rms_norm.impls[KERNEL].supports_args
    assert suits(x, weight, EPSILON)
    assert not suits(x, None, EPSILON)
    assert not suits(x, weight, EPSILON, 32)  # of a part of each row
    assert not suits(x.T[:8], weight, EPSILON)  # rows with gaps
