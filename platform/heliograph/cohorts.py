"""Whom a system serves well and whom badly: users by history, by popularity or kind of target.

One target a user. Knows values and labels, not where they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.significance import mean_interval

LENGTHS = (0, 2, 5, 10, 20, 50, 100, 200)
"""Largest history of each cohort: 0, 1-2, 3-5, ... items, and above the last."""

HEAD_SHARE, TORSO_SHARE = 0.5, 0.8
"""The most popular items that have half of all interactions are the head; those that bring it
to 80 % the torso."""

UNCATEGORISED = "no category"
OTHER = "other"


@dataclass(frozen=True)
class Cohorts:
    """A cohort for each user."""

    names: tuple[str, ...]
    """In the order in which they are read; some may have no user."""

    numbers: NDArray[np.int64]
    """(users,) places in `names`."""

    def labels(self) -> list[str]:
        """Return the name of each user's cohort."""
        return [self.names[number] for number in self.numbers]


@dataclass(frozen=True)
class CohortRow:
    """The users of one cohort."""

    cohort: str
    users: int
    mean: float
    low: float | None
    high: float | None
    """95 % interval of the mean, by bootstrap; None for a single user."""


def by_history_length(lengths: NDArray[np.int64], largest: Sequence[int] = LENGTHS) -> Cohorts:
    """Group users by how many items are known of them, as `3-5 items`.

    Args:
        lengths: (users,) items in each history.
        largest: Largest length of each cohort but the last, ascending.
    """
    starts = [0, *(length + 1 for length in largest)]
    names = [
        f"{start} items" if start == end else f"{start}-{end} items"
        for start, end in zip(starts, largest, strict=False)
    ]
    return Cohorts((*names, f"over {largest[-1]} items"), np.searchsorted(largest, lengths))


def by_popularity(targets: NDArray[np.int32], interactions: NDArray[np.int64]) -> Cohorts:
    """Group users by how popular their target is in training: head, torso, tail or unseen.

    Items are taken from the most popular one on, equals in order of number, until they have
    `HEAD_SHARE` and `TORSO_SHARE` of all interactions; the item that crosses a share still counts
    to the more popular group. The long tail is Anderson's (2004), the three parts are common use.

    Args:
        targets: (users,) the held-out item of each.
        interactions: (items,) training interactions of each item.
    """
    order = np.argsort(-interactions, kind="stable")
    more_popular = np.cumsum(interactions[order]) - interactions[order]
    shares = more_popular / max(interactions.sum(), 1)
    group = np.empty(len(interactions), np.int64)
    group[order] = np.searchsorted((HEAD_SHARE, TORSO_SHARE), shares, side="right")
    group[interactions == 0] = 3
    return Cohorts(("head", "torso", "tail", "unseen"), group[targets])


def by_category(
    targets: NDArray[np.int32], categories: Sequence[Sequence[str]], most: int = 8
) -> Cohorts:
    """Group users by the first category of their target.

    Args:
        targets: (users,) the held-out item of each.
        categories: Of each item, its own first.
        most: Categories with a cohort of their own, those of most targets; the others share one.
    """
    found = [next(iter(categories[item]), UNCATEGORISED) for item in targets]
    frequent = sorted(Counter(found).items(), key=lambda entry: (-entry[1], entry[0]))[:most]
    names = [name for name, _ in frequent if name != OTHER] + [OTHER]
    number = {name: place for place, name in enumerate(names)}
    numbers = np.array([number.get(name, len(names) - 1) for name in found], np.int64)
    return Cohorts(tuple(names), numbers)


def by_flag(flags: NDArray[np.bool_], without: str, having: str) -> Cohorts:
    """Group users by whether something holds of them."""
    return Cohorts((without, having), flags.astype(np.int64))


def by_cohort(values: NDArray[np.float64], cohorts: Cohorts, seed: int) -> list[CohortRow]:
    """Average (users,) values in each cohort that has users, in the cohorts' order.

    Raises:
        ValueError: There is not one value for each user, or one of them is NaN.
    """
    if values.shape != cohorts.numbers.shape:
        raise ValueError(
            f"values of shape {values.shape} do not fit cohorts of {len(cohorts.numbers)} users; "
            "give one value for each"
        )
    if np.isnan(values).any():
        raise ValueError(
            f"{np.isnan(values).sum()} of {len(values)} users have no value; leave them out of "
            "both the values and the cohorts"
        )
    rows = []
    for number, name in enumerate(cohorts.names):
        own = values[cohorts.numbers == number]
        if len(own):
            low, high = mean_interval(own, seed) if len(own) > 1 else (None, None)
            rows.append(CohortRow(name, len(own), float(own.mean()), low, high))
    return rows
