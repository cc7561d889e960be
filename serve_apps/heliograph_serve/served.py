"""What a request is answered with, and what that comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import Candidates
from heliograph.rules import Bonus, Plan
from heliograph_serve.api import RecommendedItem, Tier
from heliograph_serve.retrieve import Lookup


@dataclass(frozen=True)
class Grounds:
    """What an answer comes from; all batches have one row."""

    plan: Plan
    lookup: Lookup
    bonus: Bonus | None
    candidates: Candidates | None
    """As retrieval said; None: it did not answer, or there was nothing to ask about."""

    ranked: Candidates
    """All that was ranked, before an answer was chosen from it."""

    items: NDArray[np.int32]
    """(answered,) item numbers."""


@dataclass(frozen=True)
class Served:
    """What a bundle says to a request."""

    items: list[RecommendedItem]
    tier: Tier
    keeps_caps: bool
    """False where places were left that no item within the caps could take."""

    grounds: Grounds | None = None
    """Of a request that wants reasons."""
