"""Why an item is recommended: what its score is made of, and which items of the history did it.

Nothing is made up and nothing is asked of a model besides: a score is a sum, and these are its
terms. All of them are in nats, so one that is larger by ln 2 doubles the odds of the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heliograph.config import SOURCE_NAMES, Proposer
from heliograph.index import NO_ITEM, distinct, largest
from heliograph.interactions import History
from heliograph.sources import Sources

TOLD = 3
"""Items of a history that are named for a source, at most."""

TermName = Literal[Proposer, "boosts", "freshness"]
"""Where a term of a score comes from."""


@dataclass(frozen=True)
class Traced:
    """What every source says of some items after one history, and where it has it from."""

    evidence: NDArray[np.float32]
    """(items, sources) unweighted, in the order of `SOURCE_NAMES`."""

    because: NDArray[np.int32]
    """(items, sources, TOLD) items of the history that add the most, first; -1 where no more add
    anything, and for popularity, which does not look at the history."""

    parts: NDArray[np.float32]
    """(items, sources, TOLD) what each of them adds to the evidence; 0 beside -1."""


@dataclass(frozen=True)
class Terms:
    """What the scores of some items are the sums of."""

    evidence: NDArray[np.float32]
    """(items,) as it stands in the score, counted from wherever."""

    is_own: NDArray[np.bool_]
    """(items,) whether it is the item's own; what is no candidate stands with the last one."""

    others: Mapping[TermName, NDArray[np.float32]]
    """(items,) of what is no evidence: the item LM, boosts, freshness."""


@dataclass(frozen=True)
class Term:
    """One reason for a score."""

    name: TermName
    nats: float
    share: float | None
    """Of what all sources have for the item, in [0, 1], 0 where this one is against it; None: not
    a source's."""

    because: Sequence[tuple[int, float]] = ()
    """Items of the history that add the most, with their nats, the largest first."""


@dataclass(frozen=True)
class Explanation:
    """A score as a sum: `base` and the nats of all reasons."""

    reasons: Sequence[Term] = ()
    base: float = 0.0


UNEXPLAINED = Explanation()
"""Of an item that has no score of its own and fills the answer."""


def trace(sources: Sources, history: History, items: NDArray[np.int32]) -> Traced:
    """Return what every source says of (items,) items after a history, and where it has it from.

    The evidence is the very sum of what each item of the history adds to it.
    """
    consumed = distinct(history)
    shape = (len(items), len(SOURCE_NAMES), TOLD)
    because, told = np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.float32)
    evidence = np.zeros(shape[:2], np.float32)
    evidence[:, SOURCE_NAMES.index("popularity")] = sources.popularity.item_scores[items]
    for name, model in sources.of_history().items():
        source, parts = SOURCE_NAMES.index(name), model.parts(history, items)
        evidence[:, source] = parts.sum(axis=1)
        for row, of_item in enumerate(np.where(parts > 0, parts, -np.inf)):
            most = largest(of_item, TOLD)
            because[row, source, : len(most)] = consumed[most]
            told[row, source, : len(most)] = parts[row, most]
    return Traced(evidence, because, told)


def traced_popularity(scores: NDArray[np.float32]) -> Traced:
    """Return what popularity says of (items,) items, where it is all that is asked."""
    shape = (len(scores), len(SOURCE_NAMES), TOLD)
    evidence = np.zeros(shape[:2], np.float32)
    evidence[:, SOURCE_NAMES.index("popularity")] = scores
    return Traced(evidence, np.full(shape, NO_ITEM, np.int32), np.zeros(shape, np.float32))


def explanations(
    terms: Terms, traced: Traced | None, weights: NDArray[np.float32]
) -> list[Explanation]:
    """Return each item's score as a sum.

    Args:
        terms: Of the scores.
        traced: What the sources say of the same items; None: no item has evidence of its own.
        weights: (sources,) of the evidence.

    Returns:
        For each item the reasons that are not 0: sources first, what adds most before what adds
        less. The base is the evidence that stands in the score less that of the sources: one
        number for all items that have their own, and one for all others.
    """
    found = []
    for row, evidence in enumerate(terms.evidence.tolist()):
        reasons: list[Term] = []
        if traced is not None and terms.is_own[row]:
            reasons = _of_sources(traced, row, weights)
        base = evidence - sum(reason.nats for reason in reasons)
        for name, nats in terms.others.items():
            if nats[row]:
                reasons.append(Term(name, float(nats[row]), share=None))
        found.append(Explanation(reasons, base))
    return found


def _of_sources(traced: Traced, row: int, weights: NDArray[np.float32]) -> list[Term]:
    nats = traced.evidence[row] * weights
    speaking = np.flatnonzero(nats)
    order = speaking[np.argsort(-nats[speaking], kind="stable")]
    for_it = float(np.maximum(nats[speaking], 0).sum())
    return [
        Term(
            SOURCE_NAMES[source],
            float(nats[source]),
            max(0.0, float(nats[source])) / for_it if for_it else 0.0,
            _because(traced, row, int(source), float(weights[source])),
        )
        for source in order
    ]


def _because(traced: Traced, row: int, source: int, weight: float) -> list[tuple[int, float]]:
    if weight <= 0:  # what speaks for the item to the source speaks against it in the score
        return []
    pairs = zip(traced.because[row, source], traced.parts[row, source], strict=True)
    return [(int(item), weight * float(part)) for item, part in pairs if item != NO_ITEM]
