"""What fixed models say of the validation items, as arrays.

A pipeline of any depth, count and weights is put together from them without asking a model again.

Of each user the items are kept that any source or the item LM has among its first `DEEPEST`, with
everybody's opinion of them. What no one has there cannot be among the first of a final ranking:
everything the item LM itself proposes has at least the log-probability, and no less evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import PROPOSERS
from heliograph.config import SOURCE_NAMES
from heliograph.evaluation import top_items
from heliograph.index import NO_ITEM
from heliograph.interactions import History
from heliograph.ranking.fitting import Contest
from heliograph.sources import Limits, Sources
from heliograph.splits import NextItems

USERS_A_CHUNK = 512
"""Users asked about at once: bounds memory to this many rows of the catalogue."""

NOT_PROPOSED = np.iinfo(np.uint16).max


class Scores(Protocol):
    """An item LM, or what one has said."""

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return (histories, items) log-probabilities of coming next."""
        ...


@dataclass(frozen=True)
class PipelineEvidence:
    """Of every validation user the items in question, and what everybody says of them.

    Rows are filled up with -1 and with values that lose against everything.
    """

    items: NDArray[np.int32]
    """(users, items) item numbers, ascending; -1 where there are no more."""

    log_probabilities: NDArray[np.float32]
    """(users, items) of the item LM; -inf beside -1."""

    evidence: NDArray[np.float32]
    """(sources, users, items) in the order of `SOURCE_NAMES`."""

    places: NDArray[np.uint16]
    """(proposers, users, items) place in the list of each of `PROPOSERS`, 0 for the first."""

    targets: NDArray[np.int32]
    """(users,) the validation items."""

    lengths: NDArray[np.int64]
    """(users,) items of the histories."""

    owners: NDArray[np.int64]
    """(users,) whose history each is, where several of one user are asked about."""

    deepest: int
    """Length of the lists."""

    n_items: int

    def take(self, users: NDArray[np.int64]) -> PipelineEvidence:
        """Return a part of the users."""
        return PipelineEvidence(
            self.items[users],
            self.log_probabilities[users],
            self.evidence[:, users],
            self.places[:, users],
            self.targets[users],
            self.lengths[users],
            self.owners[users],
            self.deepest,
            self.n_items,
        )

    def proposed(self, depth: int, item_lm: bool) -> NDArray[np.bool_]:
        """Return (users, items) whether a source, or the item LM too, proposes an item."""
        asked = self.places if item_lm else self.places[: len(SOURCE_NAMES)]
        return np.asarray((asked < depth).any(axis=0))

    def proposed_by_item_lm(self, depth: int) -> NDArray[np.bool_]:
        """Return (users, items) whether the item LM itself proposes an item."""
        return np.asarray(self.places[PROPOSERS.index("item_lm")] < depth)

    def where(self, kept: NDArray[np.bool_]) -> PipelineEvidence:
        """Keep some of each user's items, by (users, items) true, in as few columns as need be."""
        rows, columns = np.nonzero(kept & (self.items != NO_ITEM))
        counts = np.bincount(rows, minlength=len(self.items))
        starts = np.cumsum(counts) - counts
        here = np.arange(len(rows)) - np.repeat(starts, counts)
        shape = (len(counts), int(counts.max(initial=0)))

        def packed(values: NDArray[Any], filler: float) -> NDArray[Any]:
            found = np.full(shape, filler, values.dtype)
            found[rows, here] = values[rows, columns]
            return found

        return replace(
            self,
            items=packed(self.items, NO_ITEM),
            log_probabilities=packed(self.log_probabilities, -np.inf),
            evidence=np.stack([packed(values, 0) for values in self.evidence]),
            places=np.stack([packed(values, NOT_PROPOSED) for values in self.places]),
        )

    def contest(self, depth: int) -> Contest:
        """Return what the weights are fitted on, with lists of such a depth."""
        known = self.where(self.proposed(depth, item_lm=True))
        hits = known.items == known.targets[:, None]
        target = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        return Contest(known.log_probabilities, known.evidence, target, known.lengths)


def gather(
    sources: Sources, item_lm: Scores, asked: NextItems, deepest: int, n_items: int
) -> PipelineEvidence:
    """Ask every model once.

    Args:
        sources: Fitted on the training part.
        item_lm: Fitted on the same.
        asked: Validation items.
        deepest: Length of the lists: no pipeline can be deeper.
        n_items: Size of the catalogue.
    """
    rows = [
        row
        for start in range(0, len(asked.targets), USERS_A_CHUNK)
        for row in _rows(sources, item_lm, asked.histories[start : start + USERS_A_CHUNK], deepest)
    ]
    shape = (len(rows), max((len(row.items) for row in rows), default=0))
    found = PipelineEvidence(
        items=np.full(shape, NO_ITEM, np.int32),
        log_probabilities=np.full(shape, -np.inf, np.float32),
        evidence=np.zeros((len(SOURCE_NAMES), *shape), np.float32),
        places=np.full((len(PROPOSERS), *shape), NOT_PROPOSED, np.uint16),
        targets=asked.targets,
        lengths=np.array([len(history) for history in asked.histories], np.int64),
        owners=asked.owners,
        deepest=deepest,
        n_items=n_items,
    )
    for user, row in enumerate(rows):
        here = slice(len(row.items))
        found.items[user, here] = row.items
        found.log_probabilities[user, here] = row.log_probabilities
        found.evidence[:, user, here] = row.evidence
        found.places[:, user, here] = row.places
    return found


@dataclass(frozen=True)
class _Row:
    items: NDArray[np.int32]
    log_probabilities: NDArray[np.float32]
    evidence: NDArray[np.float32]
    places: NDArray[np.uint16]


def _rows(
    sources: Sources, item_lm: Scores, histories: Sequence[History], deepest: int
) -> Iterator[_Row]:
    log_probabilities = item_lm.scores(histories)
    own = top_items(log_probabilities, histories, deepest)
    asked = sources.ask(histories, Limits(deepest, histories, None))
    for user in range(len(histories)):
        lists = [asked[name].best(user) for name in SOURCE_NAMES]
        lists.append(own[user][own[user] != NO_ITEM])
        items = np.unique(np.concatenate(lists))
        places = np.full((len(lists), len(items)), NOT_PROPOSED, np.uint16)
        for row, proposed in enumerate(lists):
            places[row, np.searchsorted(items, proposed)] = np.arange(len(proposed))
        evidence = np.stack([asked[name].evidence(user, items) for name in SOURCE_NAMES])
        yield _Row(items, log_probabilities[user, items], evidence, places)
