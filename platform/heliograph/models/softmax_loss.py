"""Cross-entropy over a whole catalogue, or a sample of it, that never holds all its logits.

Gradients are computed with the loss, one chunk of positions after the other. Next to
`F.cross_entropy` on 4,000 positions: a tenth faster for 1,700 items, and for 12,000 almost twice
as fast with 25 MB of logits in place of three copies of 190 MB.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_CHUNK = 512
"""Positions whose logits are in memory together, at most: more of them are no faster."""

LOGITS_BYTES = 256 << 20
"""Bytes of those logits, at most; from 130,000 items on, this bounds the chunk."""


def softmax_loss(
    states: Tensor,
    items: Tensor,
    targets: Tensor,
    dtype: torch.dtype = torch.float32,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of the targets under softmax(states @ items.T + log_weights).

    Args:
        states: (positions, hidden) float32.
        items: (items, hidden) float32.
        targets: (positions,) the right item of each position.
        dtype: Of what the matrix products multiply; logits, exponentials and sums are float32.
        log_weights: (items,) added to each item's logit where it is not the target; -inf leaves
            it out there. None adds nothing.

    Returns:
        A scalar, nats; its gradient reaches states and items.
    """
    loss: Tensor = _SoftmaxLoss.apply(  # type: ignore[no-untyped-call]
        states, items, targets, dtype, log_weights
    )
    return loss


def chunk_size(n_items: int) -> int:
    """Return how many positions' logits of so many items are in memory together."""
    return min(MAX_CHUNK, max(1, LOGITS_BYTES // (4 * max(n_items, 1))))


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        items: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        log_weights: Tensor | None,
    ) -> Tensor:
        loss = states.new_zeros(())
        to_states, to_items = torch.empty_like(states), torch.zeros_like(items)
        factors, rows = items.to(dtype), states.to(dtype)
        columns = factors.T.contiguous() if dtype == torch.bfloat16 else factors.T
        size = chunk_size(len(items))
        for start in range(0, len(states), size):
            chunk = slice(start, start + size)
            right = targets[chunk, None]
            logits = (rows[chunk] @ columns).float()
            if log_weights is not None:
                own = logits.gather(1, right)
                logits.add_(log_weights).scatter_(1, right, own)
            logits -= logits.amax(dim=1, keepdim=True)
            loss -= logits.gather(1, right).sum()
            weights = logits.exp_()
            total = weights.sum(dim=1, keepdim=True)
            loss += total.log().sum()
            weights /= total
            weights.scatter_add_(1, right, weights.new_full(right.shape, -1.0))
            weights = weights.to(dtype)
            to_states[chunk] = weights @ factors
            to_items += weights.T @ rows[chunk]
        ctx.save_for_backward(to_states.div_(len(states)), to_items.div_(len(states)))
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_states, to_items = ctx.saved_tensors
        return gradient * to_states, gradient * to_items, None, None, None
