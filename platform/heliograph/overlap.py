"""Events from elsewhere as the test: they must not hold what training has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from heliograph.interactions import Interactions
from heliograph.splits import HeldOut, hold_out, iso_time
from heliograph.workspace import InputError


def given_split(
    interactions: Interactions, given: Interactions, item_ids: Sequence[str]
) -> HeldOut:
    """Train on all of one set of events, test on all of another; users are the same by name.

    Args:
        interactions: What models may see.
        given: What is to be found; nobody asks whether it happened later.
        item_ids: (items,) identifiers, for the message.

    Raises:
        InputError: Some of it is in both.
    """
    refuse_overlap(interactions, given, item_ids)
    user_ids = [*dict.fromkeys([*interactions.user_ids, *given.user_ids])]
    train, test = numbered_as(interactions, user_ids), numbered_as(given, user_ids)
    lacking = len(user_ids) - int(np.count_nonzero(np.diff(test.offsets)))
    return hold_out(test, train, train, np.ones(len(test), bool), {"no given event": lacking}, 0)


def without_times(interactions: Interactions) -> Interactions:
    """Let all events be of one time: the same user and item are then the same event."""
    return replace(interactions, timestamps=np.zeros_like(interactions.timestamps))


def numbered_as(interactions: Interactions, user_ids: list[str]) -> Interactions:
    """Give each user the number of its place in a list that holds all of them."""
    number = {user_id: user for user, user_id in enumerate(user_ids)}
    places = np.array([number[user_id] for user_id in interactions.user_ids], np.int64)
    lengths = np.zeros(len(user_ids), np.int64)
    lengths[places] = np.diff(interactions.offsets)
    order = np.argsort(places[interactions.owners()], kind="stable")
    return Interactions(
        user_ids,
        np.concatenate([[0], np.cumsum(lengths)]),
        interactions.items[order],
        interactions.timestamps[order],
    )


def refuse_overlap(train: Interactions, evaluation: Interactions, item_ids: Sequence[str]) -> None:
    """Refuse evaluation events that training has seen: same user, same item, same time.

    Args:
        train: What models are fitted on.
        evaluation: What they are to be judged by; its users may be numbered differently.
        item_ids: (items,) identifiers, for the message.

    Raises:
        InputError: There are such events; the first three are named.
    """
    overlap = np.flatnonzero(_named_events(evaluation).isin(_named_events(train)))
    if len(overlap):
        owners = evaluation.owners()
        named = ", ".join(
            f"user {evaluation.user_ids[owners[row]]} item {item_ids[evaluation.items[row]]} "
            f"at {iso_time(int(evaluation.timestamps[row]))}"
            for row in overlap[:3]
        )
        raise InputError(
            f"{len(overlap)} of {len(evaluation)} evaluation events are training events too: "
            f"{named}; evaluate on events that training has not seen"
        )


def _named_events(interactions: Interactions) -> pd.MultiIndex:
    users = np.array(interactions.user_ids, object)[interactions.owners()]
    return pd.MultiIndex.from_arrays([users, interactions.items, interactions.timestamps])
