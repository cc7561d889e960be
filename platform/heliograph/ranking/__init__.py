"""Candidates -> order: the item LM's opinion of all items, and the evidence for some, multiplied.

The item LM proposes as well as judges: it gives every item of the catalogue a log-probability, and
candidates get their evidence on top, so an item that no source thought of can still win. An item
that is no candidate has as much evidence as the last candidate at most, and is given just that.

This file says what the final ranking is, on arrays; the served engine does the same inside the
sampler (`ranking.evidence_sampler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import PROPOSERS, Candidates
from heliograph.index import NO_ITEM, largest

FROM_ITEM_LM = 1 << PROPOSERS.index("item_lm")


@dataclass(frozen=True)
class Ranking:
    """The first items of each history, best first."""

    items: NDArray[np.int32]
    """(histories, k) item numbers; -1 where fewer can be ranked."""

    scores: NDArray[np.float32]
    """(histories, k) log-probabilities of coming next, evidence included; -inf beside -1."""


def rank(
    log_probabilities: NDArray[np.float32],
    candidates: Candidates,
    excluded: Sequence[NDArray[np.int32]],
    k: int,
) -> Ranking:
    """Rank all items by log-probability and evidence.

    Args:
        log_probabilities: (histories, items) of the item LM.
        candidates: Of the same histories.
        excluded: For each history the items that must not come back.
        k: Length of the rankings.
    """
    ranking = Ranking(
        np.full((len(excluded), k), NO_ITEM, np.int32),
        np.full((len(excluded), k), -np.inf, np.float32),
    )
    for row, unwanted in enumerate(excluded):
        scores = log_probabilities[row].copy()
        found = candidates.items[row] != NO_ITEM
        scores[candidates.items[row, found]] += candidates.evidence[row, found]
        scores[unwanted] = -np.inf
        total = np.logaddexp.reduce(scores)
        if total > -np.inf:  # else the user has had everything
            scores -= total
        best = largest(scores, k)
        ranking.items[row, : len(best)] = best
        ranking.scores[row, : len(best)] = scores[best]
    return ranking


def sourced(
    items: NDArray[np.int32], scores: NDArray[np.float32], candidates: Candidates
) -> Candidates:
    """Say of each ranked item who proposed it.

    Args:
        items: (k,) ranked items, best first.
        scores: (k,) theirs.
        candidates: A one-row batch, not empty; what none of it has proposed came from the item LM.

    Returns:
        A one-row batch, its evidence used up.
    """
    # a few numbers: quicker than by numpy
    known = dict(zip(candidates.items[0].tolist(), candidates.proposers[0].tolist(), strict=True))
    proposers = [known.get(item, FROM_ITEM_LM) for item in items.tolist()]
    return Candidates(
        items[None],
        scores[None],
        np.zeros((1, len(items)), np.float32),
        np.array([proposers], np.uint8),
    )


def behind(
    items: NDArray[np.int32], scores: NDArray[np.float32], candidates: Candidates
) -> Candidates:
    """Put the candidates that are not ranked, with a score of 0, behind those that are.

    See `sourced`; the scores of those that are ranked are above 0.
    """
    left = np.flatnonzero(~np.isin(candidates.items[0], items))
    rest = candidates.take(left)
    nothing = np.zeros_like(rest.scores)
    return sourced(items, scores, candidates).followed_by(
        replace(rest, scores=nothing, evidence=nothing)
    )
