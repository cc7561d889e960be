"""Sampled softmax: a step looks at the right items and some others instead of the catalogue.

The others are drawn for the whole step, from smoothed popularity, and their logits are corrected
by the log of how often they were to be expected (Bengio and Senecal, "Adaptive Importance Sampling
to Accelerate Training of a Neural Probabilistic Language Model", 2008; Yi et al., "Sampling-Bias-
Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019). The target of a
position is always there, uncorrected, and dropped where it was drawn too, so the sum under
the logarithm is that of the full softmax on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.75
"""Exponent of the counts (Mikolov et al. 2013): rare items are drawn more often than they occur."""


@dataclass(frozen=True)
class Candidates:
    """The items that a step looks at."""

    items: NDArray[np.int64]
    """(candidates,) item numbers, each once, ascending."""

    log_weights: NDArray[np.float32]
    """(candidates,) log(times drawn / times expected); -inf for one that is only a target."""

    targets: NDArray[np.int64]
    """(positions,) places of the targets in `items`."""


class NegativeSampler:
    """Draws items with replacement, item i with a probability of (its count + 1) ** 0.75."""

    def __init__(self, counts: NDArray[np.int64], negatives: int) -> None:
        """Prepare the distribution.

        Args:
            counts: (items,) interactions of each item in the training part.
            negatives: Draws a step.
        """
        weights = (counts + 1.0) ** SMOOTHING
        self.negatives = negatives
        self._bounds = np.cumsum(weights / weights.sum())
        self._expected = negatives * weights / weights.sum()

    def draw(self, targets: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """Draw a step's negatives and put them together with its (positions,) targets."""
        drawn = np.searchsorted(self._bounds, rng.random(self.negatives), side="right")
        drawn = np.minimum(drawn, len(self._bounds) - 1)  # the last bound may be just below 1
        negatives, times = np.unique(drawn, return_counts=True)
        items = np.union1d(negatives, targets)
        log_weights = np.full(len(items), -np.inf, np.float32)
        log_weights[np.searchsorted(items, negatives)] = np.log(times / self._expected[negatives])
        return Candidates(items, log_weights, np.searchsorted(items, targets))
