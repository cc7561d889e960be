"""Cuts histories into the batches that the item LM is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import History
from heliograph.models.item_lm import batches_by_length


@dataclass(frozen=True)
class Batch:
    """What one process computes of one optimiser step."""

    number: int
    """Place in its epoch, from 1."""

    sequences: list[NDArray[np.int32]]
    """This process's share; may be empty."""

    positions: int
    """Items to predict in the whole step, over all processes."""


def training_batches(
    histories: Sequence[History],
    max_history: int,
    tokens_per_batch: int,
    share: slice,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Yield an epoch's batches in random order.

    Args:
        histories: Of every user.
        max_history: Items of a sequence, at most.
        tokens_per_batch: Positions of a step, padding included.
        share: Which sequences of each step this process computes, such as every second one.
        rng: Where histories are cut, what shares a batch, and in which order batches come.
    """
    cut = windows(histories, max_history, rng)
    sequences = [cut[row] for row in rng.permutation(len(cut))]  # equally long ones mix anew
    lengths = [len(sequence) for sequence in sequences]
    groups = list(batches_by_length(lengths, tokens_per_batch))
    for number, group in enumerate(rng.permutation(len(groups)), start=1):
        rows = groups[group]
        positions = sum(lengths[row] for row in rows)
        yield Batch(number, [sequences[row] for row in rows[share]], positions)


def windows(
    histories: Sequence[History], max_history: int, rng: np.random.Generator
) -> list[NDArray[np.int32]]:
    """Cut histories into training sequences of at most `max_history` items.

    Long histories are cut at places that differ between epochs, so that every item is learned
    with long and with short contexts.
    """
    sequences = []
    for history in histories:
        if len(history) <= max_history:
            first = len(history)
        else:
            first = int(rng.integers(max_history // 2, max_history + 1))
        cuts = [0, *range(first, len(history), max_history), len(history)]
        sequences += [history[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return sequences
