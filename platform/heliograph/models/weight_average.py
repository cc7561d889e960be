"""An exponential moving average of a network's weights.

It generalises better than the last weights and needs fewer epochs (Izmailov et al., "Averaging
Weights Leads to Wider Optima and Better Generalization", UAI 2018, for the plain mean).
"""

from __future__ import annotations

import copy

import torch

from heliograph.models.item_lm import ItemLMNetwork


class WeightAverage:
    """The averaged twin of a network in training; `network` is it, in evaluation mode."""

    def __init__(self, trained: ItemLMNetwork, decay: float) -> None:
        """Start from the weights as they are.

        Args:
            trained: The network whose weights are averaged after each step.
            decay: Share of the average that a step keeps; 0 follows the weights themselves.
        """
        self.trained = trained
        self.decay = decay
        self.steps = 0
        shared = {id(trained.text_vectors): trained.text_vectors}  # large, and never trained
        self.network = copy.deepcopy(trained, shared).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self) -> None:
        """Move a step towards the weights: further in the first steps, whose start is random."""
        self.steps += 1
        decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
        pairs = zip(self.network.parameters(), self.trained.parameters(), strict=True)
        for average, weights in pairs:
            average.lerp_(weights, 1 - decay)
