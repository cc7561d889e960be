"""Sources fitted with drawn settings, and put together with an item LM that stays as it is.

A source that is better alone need not make the pipeline better, because the others may know the
same. So the settings of all sources, of candidates and of the blend are searched at once, and a
trial is judged as the pipeline would rank. What takes long is asked once: the item LM's opinion of
every item. The rest is fitted anew in a few seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heliograph.config import HeliographConfig
from heliograph.index import VectorIndex
from heliograph.interactions import History
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.sources import Sources
from heliograph.splits import NextItems
from heliograph.workspace import InputError
from heliograph_tune.knowledge import Knowledge, vectors_of
from heliograph_tune.pipeline_evidence import gather
from heliograph_tune.pipeline_trial import judge_pipeline

CUTS = 3
"""Ways to cut the users into halves that a trial is judged by, where each is asked about once;
their mean is less a matter of luck than one. Where users are asked about more often, fewer do."""

MOST_BYTES = 2 << 30
"""Of what the item LM says: every worker maps it, and none can do with a part."""


@dataclass(frozen=True)
class Opinion:
    """What an item LM says of all items after some histories, remembered."""

    log_probabilities: NDArray[np.float32]
    """(histories, items)"""

    histories: Sequence[History]
    _row_of: dict[bytes, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {history.tobytes(): row for row, history in enumerate(self.histories)}
        object.__setattr__(self, "_row_of", rows)

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return (histories, items) log-probabilities, as the model itself would."""
        return self.log_probabilities[[self._row_of[history.tobytes()] for history in histories]]


def require_room(asked: NextItems, n_items: int) -> None:
    """Refuse what would not fit into the memory of a worker.

    Raises:
        InputError: With what would.
    """
    rows = len(asked.targets)
    if 4 * rows * n_items > MOST_BYTES:
        fitting = MOST_BYTES // (4 * n_items * int(np.bincount(asked.owners).max()))
        raise InputError(
            f"a search of retrieval keeps what the item LM says of {n_items:,} items after each of "
            f"{rows:,} histories, which is more than {MOST_BYTES >> 30} GiB; draw fewer users: "
            f"overrides: [evaluation.max_users={fitting}]"
        )


def fit_sources(known: Knowledge, config: HeliographConfig) -> Sources:
    """Fit every source on the training part, as a build does, and index those that are vectors."""
    models, n_items = config.models, known.n_items
    als = Als.fit(models.als, known.train, n_items, config.seed)
    text = Text.fit(models.text, vectors_of(known))
    return Sources(
        popularity=Popularity.fit(models.popularity, known.train, n_items),
        transitions=Transitions.fit(models.transitions, known.train, n_items),
        als=als,
        text=text,
        indexes={
            "als": VectorIndex.build(als.item_vectors),
            "text": VectorIndex.build(text.item_vectors),
        },
    )


def judge_retrieval(
    known: Knowledge,
    opinion: Opinion,
    asked: NextItems,
    config: HeliographConfig,
    ks: tuple[int, ...],
    cut: int | None = None,
) -> dict[str, float]:
    """Return the metrics of the pipeline on validation, as the mean over some ways to cut users.

    Args:
        known: What the sources are fitted on.
        opinion: Of the item LM, about the histories of `asked`.
        asked: Validation items.
        config: The drawn configuration; its seed decides the cuts.
        ks: Cut-offs of the metrics.
        cut: See `judge_pipeline`.
    """
    deepest = max(config.candidates.depth, config.candidates.count, *ks)
    evidence = gather(fit_sources(known, config), opinion, asked, deepest, known.n_items)
    if cut is not None:
        return judge_pipeline(evidence, config, ks, cut)
    users = len(np.unique(asked.owners))
    found = [
        judge_pipeline(evidence, config.model_copy(update={"seed": CUTS * config.seed + way}), ks)
        for way in range(max(1, CUTS * users // len(asked.targets)))
    ]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}
