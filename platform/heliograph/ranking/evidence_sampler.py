"""Puts evidence into vLLM's sampler: the engine's distribution becomes the final ranking.

A request brings tokens and what to add to their logits: evidence for candidates, -inf for items
that must not come back. A request with a filter brings all tokens that may come back and closes
the vocabulary to the others. Tokens that are no item, or of one that is not available, are closed
always.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from heliograph.models.item_tokens import FIRST_ITEM
from heliograph.ranking.engine import Query

N_ITEMS = "heliograph_items"
"""Key of the size of the catalogue in the engine's `additional_config`."""

Bias = tuple[NDArray[np.int64], NDArray[np.float32], bool]
"""Tokens, what to add to their logits, and whether all others are closed."""


def sampling(query: Query) -> SamplingParams:
    """Return how vLLM is to sample for a query."""
    parameters = _best_tokens(query.k).clone()
    parameters.extra_args = {  # bytes cross processes as they are
        "tokens": query.tokens.tobytes(),
        "added": query.added.tobytes(),
        "closed": query.closed,
    }
    return parameters


@cache
def _best_tokens(k: int) -> SamplingParams:
    """Return what all queries for so many tokens share; vLLM takes longer to check it than we."""
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=k,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,  # copies need not be deep
    )


class EvidenceSampler(LogitsProcessor):
    """Adds each request's bias to its row of logits."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.end = FIRST_ITEM + vllm_config.additional_config[N_ITEMS]
        self.shut = torch.zeros(0, dtype=torch.int64, device=device)
        self.biases: dict[int, Bias] = {}
        self.everywhere: tuple[Tensor, Tensor, Tensor] | None = None
        self.closed: list[int] = []

    def open_to(self, end: int, shut: NDArray[np.int64]) -> None:
        """Move the end of the items, and close those tokens before it that are listed."""
        self.end = end
        self.shut = torch.from_numpy(shut.copy()).to(self.device)

    def is_argmax_invariant(self) -> bool:
        """Tell that the best token may change."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Take up the biases of requests that came and drop those that went."""
        if not process_dict_updates(self.biases, batch_update, _read_bias):
            return
        self.closed = [row for row, bias in self.biases.items() if bias[2]]
        if not self.biases:
            self.everywhere = None
            return
        tokens, added, _ = zip(*self.biases.values(), strict=True)
        rows = np.repeat(list(self.biases), [len(some) for some in tokens])
        parts = (rows, np.concatenate(tokens), np.concatenate(added))
        self.everywhere = tuple(torch.from_numpy(part).to(self.device) for part in parts)  # type: ignore[assignment]

    def apply(self, logits: Tensor) -> Tensor:
        """Change (requests, vocabulary) logits in place."""
        logits[:, :FIRST_ITEM] = -torch.inf
        logits[:, self.end :] = -torch.inf
        if len(self.shut):
            logits[:, self.shut] = -torch.inf
        if self.everywhere is None:
            return logits
        rows, tokens, added = self.everywhere
        raised = logits[rows, tokens] + added
        logits[self.closed] = -torch.inf
        logits[rows, tokens] = raised
        return logits


def _read_bias(parameters: SamplingParams, prompt: object, output: object) -> Bias | None:
    packed = parameters.extra_args
    if not packed:
        return None
    tokens = np.frombuffer(packed["tokens"], np.int64)
    return tokens, np.frombuffer(packed["added"], np.float32), packed["closed"]
