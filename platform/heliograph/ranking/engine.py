"""What a ranking engine is asked and what it answers, whichever way it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Limits:
    """What a query must keep: others would end the engine, and all that is on its way with it."""

    prompt_tokens: int
    vocabulary: int
    k: int

    @classmethod
    def of(cls, model_config: Any) -> Limits:
        """Read them from vLLM's configuration of a model."""
        return cls(
            model_config.max_model_len - 1,  # a place for the token behind the prompt
            model_config.get_vocab_size(),
            model_config.max_logprobs,
        )

    def check(self, query: Query) -> None:
        """Raise ValueError if a query does not keep them."""
        if not 1 <= len(query.prompt) <= self.prompt_tokens:
            raise ValueError(
                f"a prompt must have from 1 to {self.prompt_tokens} tokens, got {len(query.prompt)}"
            )
        if not 0 <= min(query.prompt) <= max(query.prompt) < self.vocabulary:
            raise ValueError(f"tokens of a prompt must be from 0 to {self.vocabulary - 1}")
        if not 1 <= query.k <= self.k:
            raise ValueError(f"k must be from 1 to {self.k}, got {query.k}")


class Engine(Protocol):
    """Ranks the catalogue after prompts."""

    async def take_up(self, items: ItemTokens) -> None:
        """Rank with other items from now on."""
        ...

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """Return the best next tokens of each query.

        Raises:
            ValueError: A query does not keep the engine's limits; others are not concerned.
        """
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
