"""What a ranking engine is asked and what it answers, whichever way it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.ranking.engine_items import ItemTokens

MAX_K = 1000
"""Tokens that a query can have back."""

CLOSED = -1e30
"""Log-probabilities below this are of tokens that were closed."""


@dataclass(frozen=True)
class Query:
    """One history to rank the catalogue after."""

    prompt: list[int]
    """Tokens, at least one."""

    tokens: NDArray[np.int64]
    """(tokens,) those whose logits change."""

    added: NDArray[np.float32]
    """(tokens,) what is added to them; -inf closes one."""

    closed: bool
    """Whether all other tokens are closed."""

    k: int
    """Tokens to return, at most `MAX_K` and no more than there are items."""


@dataclass(frozen=True)
class Best:
    """The most likely next tokens, best first."""

    tokens: NDArray[np.int32]
    """(k,), fewer where fewer are open."""

    log_probabilities: NDArray[np.float32]
    """(k,)"""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, how many the engine still knew."""


class Engine(Protocol):
    """Ranks the catalogue after prompts."""

    async def take_up(self, items: ItemTokens) -> None:
        """Rank with other items from now on."""
        ...

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """Return the best next tokens of each query."""
        ...

    def check(self) -> None:
        """Raise RuntimeError if the engine has died."""
        ...

    def close(self) -> None:
        """Stop the engine; work in progress fails."""
        ...


def best_of(
    tokens: NDArray[np.int32],
    log_probabilities: NDArray[np.float32],
    prompt_tokens: int,
    cached_tokens: int,
) -> Best:
    """Return the best tokens of an answer without those that are closed.

    Args:
        tokens: (k,) best first.
        log_probabilities: (k,)
        prompt_tokens: Of the query.
        cached_tokens: Of them, how many the engine still knew.
    """
    is_open = log_probabilities > CLOSED
    return Best(tokens[is_open], log_probabilities[is_open], prompt_tokens, cached_tokens)
