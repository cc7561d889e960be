"""What a few users are recommended, by the models of a bundle as they are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heliograph.bundle import Bundle
from heliograph.candidates import Candidates, Retriever, proposer_names
from heliograph.interactions import History
from heliograph.models.item_lm import ItemLM
from heliograph.ranking import Ranking, behind, rank

USERS = 6
SHOWN = 10
"""Recommendations of each."""

LAST = 6
"""Items of the history that are shown."""


@dataclass(frozen=True)
class Recommended:
    """One item of a list."""

    item_id: str
    title: str
    score: float
    """Probability of being the next item; where the item LM is not asked, the sum of evidence."""

    share: float
    """Of the list's highest score, in [0, 1]."""

    proposers: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """A user, what is known of him, and his recommendations."""

    user_id: str
    length: int
    last: list[str]
    """Titles of the last items of the history, newest first."""

    asks_item_lm: bool
    recommended: list[Recommended]


def draw_samples(bundle: Bundle, count: int = USERS) -> list[Sample]:
    """Rank all items for users drawn with the bundle's seed.

    Args:
        bundle: Whose histories, models and weights are used.
        count: Users to draw; fewer where fewer have a history.
    """
    interactions = bundle.histories().interactions
    known = np.flatnonzero(np.diff(interactions.offsets))
    rng = np.random.default_rng(bundle.config.seed)
    users = np.sort(rng.choice(known, min(count, len(known)), replace=False))
    histories = [interactions.history(user) for user in users]
    titles = bundle.catalogue().titles
    ids = bundle.catalogue().ids
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    asked = retriever.blend.asks_item_lm(histories)
    return [
        Sample(
            user_id=interactions.user_ids[user],
            length=len(history),
            last=[titles[item] for item in history[::-1][:LAST]],
            asks_item_lm=bool(asks),
            recommended=_named(answer, ids, titles),
        )
        for user, history, asks, answer in zip(
            users, histories, asked, recommend(bundle, retriever, histories), strict=True
        )
    ]


def recommend(
    bundle: Bundle, retriever: Retriever, histories: Sequence[History]
) -> list[Candidates]:
    """Return for each history the first items as a one-row batch, scored as they are served."""
    if not histories:
        return []
    count = max(bundle.config.candidates.count, SHOWN)
    candidates = retriever.retrieve(histories, count)
    scores = ItemLM.load(bundle.item_lm().parent).scores(histories)
    ranking = rank(scores, candidates, histories, SHOWN)
    asked = retriever.blend.asks_item_lm(histories)
    return [
        _ranked(ranking, candidates, row) if asks else candidates.row(row, SHOWN)
        for row, asks in enumerate(asked)
    ]


def _ranked(ranking: Ranking, candidates: Candidates, row: int) -> Candidates:
    found = ranking.scores[row] > -np.inf
    if not found.any():  # the user has had everything
        return candidates.row(row, 0)
    items, probabilities = ranking.items[row, found], np.exp(ranking.scores[row, found])
    count = candidates.items.shape[1]
    return behind(items, probabilities, candidates.row(row, count)).row(0, len(items))


def _named(answer: Candidates, ids: list[str], titles: list[str]) -> list[Recommended]:
    scores = [float(score) for score in answer.scores[0]]
    highest = max(scores, default=0.0)
    return [
        Recommended(
            item_id=ids[item],
            title=titles[item],
            score=score,
            share=max(score / highest, 0.0) if highest > 0 else 0.0,
            proposers=proposer_names(int(bits)),
        )
        for item, score, bits in zip(answer.items[0], scores, answer.proposers[0], strict=True)
    ]
