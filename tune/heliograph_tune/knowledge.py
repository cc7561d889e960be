"""What the trials of a model search share, and all that they can know.

The last item of each evaluated user, the test item, is cut off here, before anything reaches the
search: no object that a trial is given contains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import Interactions
from heliograph.splits import NextItems, leave_one_out


@dataclass(frozen=True)
class Knowledge:
    """Training data and validation items, without the test items."""

    train: Interactions
    held_out: NextItems
    """The validation item of each user, after what came before it."""

    n_items: int
    vectors: NDArray[np.float32] | None
    """(items, dim) of the texts, for the models that read them."""


def without_test_items(
    interactions: Interactions, n_items: int, vectors: NDArray[np.float32] | None
) -> Knowledge:
    """Keep what may be known before the test: training events and validation items."""
    split = leave_one_out(interactions)
    return Knowledge(split.train, split.validation_items(), n_items, vectors)


def vectors_of(known: Knowledge) -> NDArray[np.float32]:
    """Return the vectors of the texts.

    Raises:
        ValueError: The search was given none.
    """
    if known.vectors is None:
        raise ValueError("this model reads texts, but the search was given no vectors of them")
    return known.vectors
