"""A split by time: what came before a moment is training, the rest the test."""

from __future__ import annotations

import numpy as np

from heliograph.interactions import Interactions
from heliograph.splits import HeldOut, check_share, hold_out, iso_time
from heliograph.workspace import InputError


def time_at_share(interactions: Interactions, share: float) -> int:
    """Return the time, in microseconds since 1970, before which this share of the events lies.

    Fewer where several events have that very time, because all of them come after the split.
    """
    check_share(share, "events")
    ordered = np.sort(interactions.timestamps)
    return int(ordered[min(int(np.ceil(share * len(ordered))), len(ordered) - 1)])


def temporal_split(interactions: Interactions, time_us: int) -> HeldOut:
    """Train on what happened before a moment, test on what happened from it on, for all users.

    The one split without a look ahead: what others did later is not known either. Meng, McCreadie,
    Macdonald, Ounis: Exploring data splitting strategies for the evaluation of recommendation
    models, RecSys 2020 ("global temporal split").

    Args:
        interactions: Of all users.
        time_us: The first moment of the test, in microseconds since 1970.

    Raises:
        InputError: All events are on one side.
    """
    later = interactions.timestamps >= time_us
    if later.all() or not later.any():
        side = "from it on" if later.all() else "before it"
        raise InputError(
            f"the split at {iso_time(time_us)} leaves all {len(later)} events {side}; choose a "
            "time within the data (events without timestamps cannot be split by time)"
        )
    train = interactions.where(~later)
    evaluated = len(np.unique(interactions.owners()[later]))
    reason = f"no event from {iso_time(time_us)} on"
    left_out = {reason: len(interactions.user_ids) - evaluated}
    return hold_out(interactions, train, train, later, left_out, tied_users=0)
