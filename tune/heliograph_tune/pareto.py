"""Which points no other point beats in everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pareto_front(values: NDArray[np.float64], minimised: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places of the points that are not dominated, in order.

    A point is dominated by one that is at least as good in every objective and better in one.

    Args:
        values: (points, objectives).
        minimised: (objectives,) true where less is better.
    """
    losses = np.where(minimised, values, -values)
    no_worse = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    return np.flatnonzero(~(no_worse & better).any(axis=0))
