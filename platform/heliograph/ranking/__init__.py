"""Candidates -> order: the item LM's opinion and the retrieval's, multiplied.

The final score of a candidate is `log P(item | history) + weight * log fused`, a product of two
experts: one reads the sequence, the other counts. The weight is chosen on validation, so that
an expert that does not help is left out by evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.candidates import Candidates
from heliograph.evaluation import ndcg, rank_of
from heliograph.index import NO_ITEM

FUSED_FLOOR = 1e-6
"""Stands for the fused score of an item that no source proposed: far behind those proposed."""


def blend(
    log_probabilities: NDArray[np.float32], fused: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """Combine the item LM's log-probabilities with fused retrieval scores of the same shape."""
    retrieval = np.log(np.maximum(fused, FUSED_FLOOR))
    scores: NDArray[np.float32] = (log_probabilities + weight * retrieval).astype(np.float32)
    return scores


def shares(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn (histories, count) final scores into shares of belief that sum to 1 in each row."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    normalised: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return normalised


def reorder(candidates: Candidates, scores: NDArray[np.float32]) -> Candidates:
    """Sort candidates by (histories, count) scores, best first, which become their scores.

    Equal scores keep the order of retrieval; open places stay last.
    """
    ranked = np.where(candidates.items == NO_ITEM, -np.inf, scores)
    order = np.argsort(-ranked, axis=1, kind="stable")
    return Candidates(
        items=np.take_along_axis(candidates.items, order, axis=1),
        scores=np.take_along_axis(scores, order, axis=1),
        sources=np.take_along_axis(candidates.sources, order, axis=1),
    )


def candidate_scores(
    all_scores: NDArray[np.float32], candidates: Candidates
) -> NDArray[np.float32]:
    """Pick each candidate's score out of (histories, items) scores; 0 at open places."""
    picked = np.take_along_axis(all_scores, np.maximum(candidates.items, 0), axis=1)
    return np.where(candidates.items == NO_ITEM, 0, picked).astype(np.float32)


def blend_table(
    log_probabilities: NDArray[np.float32],
    candidates: Candidates,
    targets: NDArray[np.int32],
    weights: Sequence[float],
) -> dict[float, float]:
    """Return NDCG@10 for every weight: the evidence by which `best_weight` decides."""
    table = {}
    for weight in weights:
        ranked = reorder(candidates, blend(log_probabilities, candidates.scores, weight))
        ranks = rank_of(targets, ranked.items[:, :10])
        table[weight] = float(ndcg(ranks, 10).mean()) if len(ranks) else 0.0
    return table


def best_weight(table: dict[float, float]) -> float:
    """Return the weight with the highest NDCG@10; the smallest of equals."""
    return max(sorted(table), key=lambda weight: table[weight])
