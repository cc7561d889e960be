"""Every model and the whole pipeline in one table, by the same users and the same rules.

The blend of the pipeline is chosen on the validation items here, then frozen; the test items
are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import Candidates, Retriever
from heliograph.config import SOURCE_NAMES, EvaluationConfig, HeliographConfig
from heliograph.evaluation import measure, top_items
from heliograph.events import History
from heliograph.models.item_lm import ItemLM
from heliograph.ranking import best_weight, blend, blend_table, candidate_scores, reorder
from heliograph.splits import LeaveOneOut

USERS_A_CHUNK = 512
"""Users scored at once: bounds memory to this many rows of the catalogue."""

Row = dict[str, float]
"""Metric such as `ndcg@10` -> mean over users."""


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found."""

    users: int
    items: int
    blend_weight: float
    blend_table: dict[float, float]
    """Weight -> NDCG@10 on validation: the evidence for `blend_weight`."""

    validation: dict[str, Row]
    """Model -> metrics on the validation items."""

    test: dict[str, Row]
    """Model -> metrics on the test items."""


@dataclass(frozen=True)
class _Rankings:
    """What each model, retrieval and the item LM say about one set of histories."""

    by_model: dict[str, NDArray[np.int32]]
    """Model -> (users, depth) ranking over all items."""

    candidates: Candidates
    log_probabilities: NDArray[np.float32]
    """(users, candidates) of the item LM."""


def compare(
    retriever: Retriever,
    item_lm: ItemLM,
    split: LeaveOneOut,
    config: HeliographConfig,
    progress: Callable[[int], None],
) -> Comparison:
    """Evaluate each source, the item LM, fused retrieval and the blended pipeline.

    Args:
        retriever: Sources fitted on the training part of `split`.
        item_lm: Fitted on the same.
        split: Held-out items.
        config: Cut-offs, blend weights and sizes.
        progress: Told the number of histories ranked since the last call.
    """
    chosen = _sample(split, config.evaluation, config.seed)
    known, targets = _pick(split.validation_histories(), chosen), split.validation[chosen]
    validation = _rank(retriever, item_lm, known, config, progress)
    table = blend_table(
        validation.log_probabilities, validation.candidates, targets, config.ranking.blend_weights
    )
    weight = best_weight(table)
    n_items = len(retriever.by_popularity)
    ks = config.evaluation.ks
    rows = {"validation": _measure(validation, weight, targets, ks, n_items)}
    test = _rank(retriever, item_lm, _pick(split.test_histories(), chosen), config, progress)
    rows["test"] = _measure(test, weight, split.test[chosen], ks, n_items)
    return Comparison(len(chosen), n_items, weight, table, rows["validation"], rows["test"])


def _rank(
    retriever: Retriever,
    item_lm: ItemLM,
    histories: Sequence[History],
    config: HeliographConfig,
    progress: Callable[[int], None],
) -> _Rankings:
    depth = max(config.evaluation.ks)
    parts = []
    for start in range(0, len(histories), USERS_A_CHUNK):
        chunk = histories[start : start + USERS_A_CHUNK]
        by_model: dict[str, NDArray[np.int32]] = {
            name: top_items(retriever.sources.model(name).scores(chunk), chunk, depth)
            for name in SOURCE_NAMES
        }
        scores = item_lm.scores(chunk)
        by_model["item_lm"] = top_items(scores, chunk, depth)
        candidates = retriever.retrieve(chunk, config.candidates.count)
        parts.append(_Rankings(by_model, candidates, candidate_scores(scores, candidates)))
        progress(len(chunk))
    return _joined(parts)


def _joined(parts: Sequence[_Rankings]) -> _Rankings:
    return _Rankings(
        by_model={
            name: np.concatenate([part.by_model[name] for part in parts])
            for name in parts[0].by_model
        },
        candidates=Candidates(
            items=np.concatenate([part.candidates.items for part in parts]),
            scores=np.concatenate([part.candidates.scores for part in parts]),
            sources=np.concatenate([part.candidates.sources for part in parts]),
        ),
        log_probabilities=np.concatenate([part.log_probabilities for part in parts]),
    )


def _measure(
    rankings: _Rankings,
    weight: float,
    targets: NDArray[np.int32],
    ks: Sequence[int],
    n_items: int,
) -> dict[str, Row]:
    scores = blend(rankings.log_probabilities, rankings.candidates.scores, weight)
    lists = rankings.by_model | {
        "retrieval": rankings.candidates.items,
        "pipeline": reorder(rankings.candidates, scores).items,
    }
    return {name: measure(ranking, targets, ks, n_items) for name, ranking in lists.items()}


def _sample(split: LeaveOneOut, config: EvaluationConfig, seed: int) -> NDArray[np.int64]:
    everyone = np.arange(len(split.users))
    if config.max_users is None or len(everyone) <= config.max_users:
        return everyone
    return np.sort(np.random.default_rng(seed).choice(everyone, config.max_users, replace=False))


def _pick(histories: Sequence[History], rows: NDArray[np.int64]) -> list[History]:
    return [histories[row] for row in rows]
