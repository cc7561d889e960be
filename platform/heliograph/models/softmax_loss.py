"""Cross-entropy over a whole catalogue that never holds all its logits.

Gradients are computed with the loss, one chunk of positions after the other. Next to
`F.cross_entropy` on 4,000 positions: a tenth faster for 1,700 items, and for 12,000 almost twice
as fast with 25 MB of logits in place of three copies of 190 MB.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Positions whose logits are in memory together."""


def softmax_loss(states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets under softmax(states @ items.T).

    Args:
        states: (positions, hidden).
        items: (items, hidden).
        targets: (positions,) the right item of each position.

    Returns:
        A scalar, nats; its gradient reaches states and items.
    """
    loss: Tensor = _SoftmaxLoss.apply(states, items, targets)  # type: ignore[no-untyped-call]
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        loss = states.new_zeros(())
        to_states, to_items = torch.empty_like(states), torch.zeros_like(items)
        for start in range(0, len(states), CHUNK):
            chunk = slice(start, start + CHUNK)
            right = targets[chunk, None]
            logits = states[chunk] @ items.T
            logits -= logits.amax(dim=1, keepdim=True)
            loss -= logits.gather(1, right).sum()
            weights = logits.exp_()
            total = weights.sum(dim=1, keepdim=True)
            loss += total.log().sum()
            weights /= total
            weights.scatter_add_(1, right, weights.new_full(right.shape, -1.0))
            torch.mm(weights, items, out=to_states[chunk])
            to_items.addmm_(weights.T, states[chunk])
        ctx.save_for_backward(to_states / len(states), to_items / len(states))
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        to_states, to_items = ctx.saved_tensors
        return gradient * to_states, gradient * to_items, None
