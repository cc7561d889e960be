"""The processes that train one model together: each computes a share of every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """One process and how many there are; a process of its own is a team of one.

    In a larger team, torch's process group is initialised.
    """

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> slice:
        """What of a list this process takes care of."""
        return slice(self.rank, None, self.size)

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the team."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the team; one that is missing counts as zero."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.add_up(parameter.grad)
