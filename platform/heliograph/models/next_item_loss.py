"""The loss of a batch of sequences under the item LM, over the catalogue or a sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heliograph.models.item_lm import ItemLMNetwork, pad
from heliograph.models.item_tokens import BOS, FIRST_ITEM
from heliograph.models.negatives import NegativeSampler
from heliograph.models.softmax_loss import softmax_loss

IGNORED = -100
"""Target of a padded position, left out of the loss."""


@dataclass(frozen=True)
class _Vocabulary:
    """The part of the vocabulary that a step computes with."""

    embeddings: Tensor
    """(tokens, hidden)."""

    inputs: Tensor
    """(sequences, length) places of the input tokens in `embeddings`."""

    items: Tensor
    """(candidates, hidden) what the softmax is over."""

    targets: Tensor
    """(positions,) places in `items`."""

    log_weights: Tensor | None


def next_item_loss(
    network: ItemLMNetwork,
    sequences: Sequence[NDArray[np.int32]],
    dtype: torch.dtype = torch.float32,
    sampler: NegativeSampler | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return the mean cross-entropy of every item of some sequences given those before it.

    Args:
        network: Gradients reach its parameters.
        sequences: At least one; none is empty.
        dtype: Of what matrix products multiply.
        sampler: Draws the items that targets compete with; None lets them compete with all.
        rng: For the sampler.

    Returns:
        A scalar, nats.
    """
    device = network.residual.device
    inputs = pad([[BOS, *(row[:-1] + FIRST_ITEM).tolist()] for row in sequences]).to(device)
    targets = pad([row.tolist() for row in sequences], IGNORED).to(device)
    predicted = targets != IGNORED
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if sampler is None or rng is None:
            words = _whole(network, inputs, targets[predicted])
        else:
            words = _sampled(network, inputs, targets[predicted], sampler, rng)
        states = network(words.inputs, words.embeddings)[predicted]
    return softmax_loss(
        states.float(), words.items.float(), words.targets, dtype, words.log_weights
    )


def _whole(network: ItemLMNetwork, inputs: Tensor, targets: Tensor) -> _Vocabulary:
    embeddings = network.embeddings()
    items = embeddings[FIRST_ITEM : FIRST_ITEM + network.n_items]
    return _Vocabulary(embeddings, inputs, items, targets, None)


def _sampled(
    network: ItemLMNetwork,
    inputs: Tensor,
    targets: Tensor,
    sampler: NegativeSampler,
    rng: np.random.Generator,
) -> _Vocabulary:
    """Embed the tokens that are read or scored, and no other."""
    device = inputs.device
    candidates = sampler.draw(targets.cpu().numpy(), rng)
    scored = torch.from_numpy(candidates.items).to(device) + FIRST_ITEM
    tokens = torch.cat([inputs.flatten(), scored])
    tokens, places = torch.unique(tokens, return_inverse=True)
    embeddings = network.embeddings(tokens)
    read = inputs.numel()
    return _Vocabulary(
        embeddings,
        places[:read].view(inputs.shape),
        embeddings[places[read:]],
        torch.from_numpy(candidates.targets).to(device),
        torch.from_numpy(candidates.log_weights).to(device),
    )
