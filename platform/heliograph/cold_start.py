"""Splits that show how models do on users, or on items, that training has never seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import Interactions
from heliograph.splits import HeldOut, check_share, hold_out, ties


def user_cold_start(interactions: Interactions, share: float, seed: int, given: int = 1) -> HeldOut:
    """Keep some users out of training altogether, and look for the later items of each.

    Args:
        interactions: Of all users.
        share: Of the users, drawn at random, 0 < share < 1.
        seed: Of the draw.
        given: Events known of each such user, the oldest ones; 0 for nothing at all.
    """
    check_share(share, "users")
    if given < 0:
        raise ValueError(f"given is {given}, but it is a number of events: give 0 or more")
    everyone = np.arange(len(interactions.user_ids))
    is_new = np.isin(everyone, _draw(everyone, share, seed))
    owners = interactions.owners()
    place = np.arange(len(interactions)) - interactions.offsets[:-1][owners]
    first_held = is_new[owners] & (place == given)
    left_out = {
        "training only": int((~is_new).sum()),
        f"new, but with no more than {given} events": int(is_new.sum() - first_held.sum()),
    }
    return hold_out(
        interactions,
        train=interactions.where(~is_new[owners]),
        known=interactions.where(is_new[owners] & (place < given)),
        held=is_new[owners] & (place >= given),
        left_out=left_out,
        tied_users=int((ties(interactions) & first_held).sum()),
    )


def item_cold_start(interactions: Interactions, share: float, seed: int) -> HeldOut:
    """Keep some items out of training altogether, and look for them in every user's list.

    Time plays no part: what a user consumed after a held-out item is known too.

    Args:
        interactions: Of all users.
        share: Of the items that have events, drawn at random, 0 < share < 1.
        seed: Of the draw.
    """
    check_share(share, "items")
    drawn = _draw(np.unique(interactions.items), share, seed)
    held = np.isin(interactions.items, drawn)
    train = interactions.where(~held)
    evaluated = len(np.unique(interactions.owners()[held]))
    left_out = {"no event of a held-out item": len(interactions.user_ids) - evaluated}
    return hold_out(interactions, train, train, held, left_out, tied_users=0)


def _draw(population: NDArray[np.integer], share: float, seed: int) -> NDArray[np.integer]:
    """Draw a share without replacement, at least one of a population that is not empty."""
    size = min(max(round(share * len(population)), 1), len(population))
    return np.random.default_rng(seed).choice(population, size, replace=False)
