"""Blending two experts, with numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heliograph.candidates import Candidates
from heliograph.index import NO_ITEM
from heliograph.ranking import (
    best_weight,
    blend,
    blend_table,
    candidate_scores,
    reorder,
    shares,
)


def candidates(items: list[list[int]], scores: list[list[float]]) -> Candidates:
    return Candidates(
        np.array(items, np.int32), np.array(scores, np.float32), np.ones((len(items), 3), np.uint8)
    )


def test_the_blend_is_a_product_of_experts() -> None:
    scores = blend(
        np.log([[0.5, 0.25]]).astype(np.float32), np.array([[0.1, 0.4]], np.float32), 2.0
    )
    assert np.exp(scores) == pytest.approx(np.array([[0.5 * 0.1**2, 0.25 * 0.4**2]]), rel=1e-5)


def test_without_weight_the_item_lm_decides_alone() -> None:
    alone = np.array([[-1.0, -2.0]], np.float32)
    assert np.array_equal(blend(alone, np.array([[0.0, 9.0]], np.float32), 0.0), alone)


def test_reordering_keeps_open_places_last_and_ties_in_the_order_of_retrieval() -> None:
    ranked = reorder(
        candidates([[7, 3, NO_ITEM]], [[0.3, 0.2, 0.0]]), np.array([[1.0, 1.0, 5.0]], np.float32)
    )
    assert ranked.items.tolist() == [[7, 3, NO_ITEM]]
    swapped = reorder(
        candidates([[7, 3, NO_ITEM]], [[0.3, 0.2, 0.0]]), np.array([[1.0, 2.0, 5.0]], np.float32)
    )
    assert swapped.items.tolist() == [[3, 7, NO_ITEM]]
    assert swapped.scores[0, :2].tolist() == [2.0, 1.0]


def test_scores_of_candidates_are_picked_out_of_all_scores() -> None:
    everything = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    picked = candidate_scores(everything, candidates([[3, 1, NO_ITEM]], [[0, 0, 0]]))
    assert picked.tolist() == [[3.0, 1.0, 0.0]]


def test_shares_sum_to_one_and_keep_the_order() -> None:
    found = shares(np.array([[-300.0, -301.0, -305.0]], np.float32))
    assert found.sum() == pytest.approx(1.0)
    assert np.all(np.diff(found) < 0)


def test_the_weight_with_the_best_validation_score_is_chosen_the_smallest_of_equals() -> None:
    pool = candidates([[5, 6, 7]], [[0.1, 0.4, 0.2]])
    wrong = np.log(np.array([[0.6, 0.2, 0.2]], np.float32))  # the item LM prefers item 5
    table = blend_table(wrong, pool, np.array([6], np.int32), weights=(0.0, 1.0, 3.0))
    assert table[0.0] < table[1.0] == table[3.0] == 1.0
    assert best_weight(table) == 1.0
