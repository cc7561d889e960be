"""What the trials of a model search share, and all that they can know.

The last item of each evaluated user, the test item, is cut off here, before anything reaches the
search: no object that a trial is given contains it.

Where there are few users, one item of each says little: which of two configurations finds a few
items more is mostly luck. So a search may hold out several of the items before the test item.
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
    """The validation item of each user, after what came before it; and as many before that as are
    held out."""

    n_items: int
    vectors: NDArray[np.float32] | None
    """(items, dim) of the texts, for the models that read them."""


LARGEST_SHARE = 3
"""One in so many of a user's training events is held out at most: those with few keep most."""


def without_test_items(
    interactions: Interactions,
    n_items: int,
    vectors: NDArray[np.float32] | None,
    held_out: int = 1,
) -> Knowledge:
    """Keep what may be known before the test: training events and the items that judge.

    Args:
        interactions: All of them.
        n_items: Size of the catalogue.
        vectors: See `Knowledge`.
        held_out: Items of each user that judge: the validation item, and those before it, which
            are then no training events.
    """
    split = leave_one_out(interactions)
    if held_out == 1:
        return Knowledge(split.train, split.validation_items(), n_items, vectors)
    more = np.zeros(len(interactions.user_ids), np.int64)
    lengths = np.diff(split.train.offsets)[split.users]
    more[split.users] = np.minimum(held_out - 1, lengths // LARGEST_SHARE)
    known = [
        (user, np.append(split.train.history(user), item))
        for user, item in zip(split.users, split.validation, strict=True)
    ]
    places = [
        (user, history, place)
        for user, history in known
        for place in range(len(history) - 1 - more[user], len(history))
    ]
    asked = NextItems(
        [history[:place] for _, history, place in places],
        np.array([history[place] for _, history, place in places], np.int32),
        np.array([user for user, _, _ in places], np.int64),
    )
    return Knowledge(split.train.without_last(more), asked, n_items, vectors)


def vectors_of(known: Knowledge) -> NDArray[np.float32]:
    """Return the vectors of the texts.

    Raises:
        ValueError: The search was given none.
    """
    if known.vectors is None:
        raise ValueError("this model reads texts, but the search was given no vectors of them")
    return known.vectors
