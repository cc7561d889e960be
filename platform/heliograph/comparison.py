"""Every model and the whole pipeline in one table, by the same users and the same rules.

The weights of the pipeline are fitted on the validation items here, then frozen; the test items
are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.candidates import Retriever
from heliograph.config import SOURCE_NAMES, HeliographConfig
from heliograph.evaluation import measure, top_items
from heliograph.events import History
from heliograph.index import NO_ITEM
from heliograph.models.item_lm import ItemLM
from heliograph.ranking import rank
from heliograph.ranking.fitting import (
    CohortEvidence,
    Contest,
    build_contest,
    fit_blend,
    join_contests,
)
from heliograph.sources import Limits, Sources
from heliograph.splits import LeaveOneOut

USERS_A_CHUNK = 512
"""Users scored at once: bounds memory to this many rows of the catalogue."""

Row = dict[str, float]
"""Metric such as `ndcg@10` -> mean over users."""

Progress = Callable[[int], None]
"""Told the number of histories ranked since the last call."""


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found."""

    users: int
    items: int
    cohorts: list[CohortEvidence]
    """The evidence by which each cohort got its weights."""

    validation: dict[str, Row]
    """Model -> metrics on the validation items."""

    test: dict[str, Row]
    """Model -> metrics on the test items."""


def compare(
    sources: Sources,
    item_lm: ItemLM,
    split: LeaveOneOut,
    config: HeliographConfig,
    progress: Progress,
) -> tuple[Blend, Comparison]:
    """Fit the blend; evaluate each source, the item LM, retrieval and the pipeline.

    Args:
        sources: Fitted on the training part of `split`.
        item_lm: Fitted on the same.
        split: Held-out items.
        config: Cut-offs, cohorts and sizes.
        progress: Told of every history, thrice: fitting, validation, test.
    """
    chosen = _sample(np.arange(len(split.users)), config.evaluation.max_users, config.seed)
    known, targets = _pick(split.validation_histories(), chosen), split.validation[chosen]
    blend, cohorts = fit(sources, item_lm, known, targets, config, progress)
    retriever = Retriever(sources, config.candidates, blend)
    validation = evaluate(retriever, item_lm, known, targets, config, progress)
    histories = _pick(split.test_histories(), chosen)
    test = evaluate(retriever, item_lm, histories, split.test[chosen], config, progress)
    n_items = len(sources.popularity.item_scores)
    return blend, Comparison(len(chosen), n_items, cohorts, validation, test)


def fit(
    sources: Sources,
    item_lm: ItemLM,
    histories: Sequence[History],
    targets: NDArray[np.int32],
    config: HeliographConfig,
    progress: Progress,
) -> tuple[Blend, list[CohortEvidence]]:
    """Fit the blend on held-out items of users."""
    users = _sample(np.arange(len(histories)), config.ranking.max_users, config.seed)
    retriever = Retriever(sources, config.candidates, Blend.uniform({}))
    parts: list[Contest] = []
    for chunk in _chunks(users):
        known = _pick(histories, chunk)
        scores = item_lm.scores(known)
        own = top_items(scores, known, config.candidates.depth)
        limits = Limits(config.candidates.depth, known, None)
        proposals = retriever.propose(known, limits, [row[row != NO_ITEM] for row in own])
        lengths = [len(history) for history in known]
        parts.append(build_contest(proposals, scores, targets[chunk], lengths))
        progress(len(chunk))
    fixed = config.candidates.weights
    weights = None if fixed is None else np.array([fixed.get(name, 0) for name in SOURCE_NAMES])
    if not parts:
        return Blend.uniform(fixed or {"transitions": 1.0}), []
    return fit_blend(join_contests(parts), config.ranking, weights, config.seed)


def evaluate(
    retriever: Retriever,
    item_lm: ItemLM,
    histories: Sequence[History],
    targets: NDArray[np.int32],
    config: HeliographConfig,
    progress: Progress,
) -> dict[str, Row]:
    """Return every model's metrics on the items that come after the histories."""
    parts = []
    for chunk in _chunks(np.arange(len(histories))):
        parts.append(rankings(retriever, item_lm, _pick(histories, chunk), config))
        progress(len(chunk))
    n_items, ks = len(retriever.sources.popularity.item_scores), config.evaluation.ks
    names = parts[0] if parts else {}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return {name: measure(found, targets, ks, n_items) for name, found in joined.items()}


def rankings(
    retriever: Retriever, item_lm: ItemLM, histories: Sequence[History], config: HeliographConfig
) -> dict[str, NDArray[np.int32]]:
    """Return (histories, k) rankings of all items by every model, as they would be served."""
    k = max(config.evaluation.ks)
    found: dict[str, NDArray[np.int32]] = {
        name: top_items(retriever.sources.model(name).scores(histories), histories, k)
        for name in SOURCE_NAMES
    }
    scores = item_lm.scores(histories)
    found["item_lm"] = top_items(scores, histories, k)
    count = config.candidates.count
    candidates = retriever.retrieve(histories, max(count, k))
    found["retrieval"] = candidates.items[:, :k]
    ranked = rank(scores, candidates, count, histories, k).items
    asked = retriever.blend.asks_item_lm(histories)
    found["pipeline"] = np.where(asked[:, None], ranked, candidates.items[:, :k])
    return found


def _sample(users: NDArray[np.int64], count: int | None, seed: int) -> NDArray[np.int64]:
    if count is None or len(users) <= count:
        return users
    return np.sort(np.random.default_rng(seed).choice(users, count, replace=False))


def _chunks(users: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(users), USERS_A_CHUNK):
        yield users[start : start + USERS_A_CHUNK]


def _pick(histories: Sequence[History], rows: NDArray[np.int64]) -> list[History]:
    return [histories[row] for row in rows]
