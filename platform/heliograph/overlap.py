"""An evaluation set must not hold what training has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from heliograph.events import Interactions
from heliograph.splits import iso_time
from heliograph.workspace import InputError


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
