"""An item LM of a dozen items, small enough to train in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliograph.config import ItemLMConfig
from heliograph.interactions import History
from worlds import clustered_vectors

N_ITEMS = 12
SMALL = ItemLMConfig(hidden_size=32, layers=2, heads=1, max_history=6, spare_tokens=4)


def history(*items: int) -> History:
    """Return a history, oldest item first."""
    return np.array(items, np.int32)


def vectors() -> NDArray[np.float32]:
    """Return texts that say nothing of one another."""
    return clustered_vectors(N_ITEMS, 1, dim=N_ITEMS)
