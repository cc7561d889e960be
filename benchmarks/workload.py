"""The users of a bundle, in one order for all measurements, and what the graph makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heliograph.bundle import Bundle
from heliograph.candidates import Retriever
from heliograph.interactions import History
from heliograph.ranking.engine import Query
from heliograph_serve.rank import Scoring

MAX_USERS = 2000
"""More would make the first visits long; all measurements go round and round over these."""

SEED = 7
ITEMS = 10
"""Items in an answer."""


@dataclass(frozen=True)
class User:
    """Someone who asks."""

    id: str
    history: History


def users_of(bundle: Bundle) -> list[User]:
    """Return the users with a history, shuffled, at most `MAX_USERS`."""
    interactions = bundle.histories().interactions
    order = np.random.default_rng(SEED).permutation(len(interactions.user_ids))
    users = (User(interactions.user_ids[row], interactions.history(int(row))) for row in order)
    return [user for user in users if len(user.history)][:MAX_USERS]


def retriever_of(bundle: Bundle) -> Retriever:
    """Return the retriever as the graph has it."""
    return Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())


def queries_of(bundle: Bundle, k: int) -> list[Query]:
    """Return what the graph would ask the ranking engine, a user each."""
    histories = [user.history for user in users_of(bundle)]
    max_history = bundle.config.models.item_lm.max_history
    count = bundle.config.candidates.count
    batch = retriever_of(bundle).retrieve(histories, count)
    found = [batch.row(row, count) for row in range(len(histories))]
    return [
        Scoring(history, own.items[0], own.evidence[0], history, False, k).query(max_history)
        for history, own in zip(histories, found, strict=True)
    ]
