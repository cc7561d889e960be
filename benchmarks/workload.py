"""The users of a bundle, in one order for all measurements, and what the graph makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heliograph.bundle import Bundle
from heliograph.candidates import Retriever
from heliograph.events import History
from heliograph.models.item_tokens import FIRST_ITEM, prompt

MAX_USERS = 2000
"""More would make the first visits long; all measurements go round and round over these."""

SEED = 7


@dataclass(frozen=True)
class User:
    """Someone who asks."""

    id: str
    history: History


@dataclass(frozen=True)
class Prompts:
    """What the ranking engine is asked, a user a row."""

    tokens: list[list[int]]
    candidates: list[list[int]]


def users_of(bundle: Bundle) -> list[User]:
    """Return the users with a history, shuffled, at most `MAX_USERS`."""
    interactions = bundle.histories().interactions
    order = np.random.default_rng(SEED).permutation(len(interactions.user_ids))
    users = (User(interactions.user_ids[row], interactions.history(int(row))) for row in order)
    return [user for user in users if len(user.history)][:MAX_USERS]


def retriever_of(bundle: Bundle) -> Retriever:
    """Return the retriever as the graph has it."""
    return Retriever(bundle.sources(), bundle.config.candidates)


def prompts_of(bundle: Bundle) -> Prompts:
    """Return prompts and candidates as the graph would send them to the engine."""
    histories = [user.history for user in users_of(bundle)]
    max_history = bundle.config.models.item_lm.max_history
    count = bundle.config.candidates.count
    found = retriever_of(bundle).retrieve(histories, count)
    rows = (found.row(row, count).items[0] for row in range(len(histories)))
    return Prompts(
        tokens=[prompt(history, max_history) for history in histories],
        candidates=[(items + FIRST_ITEM).tolist() for items in rows],
    )
