"""Metrics are those one computes by hand, and those of ranx."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.evaluation import METRICS, coverage, measure, rank_of, top_items

N_ITEMS = 30


def rankings(*rows: list[int]) -> NDArray[np.int32]:
    return np.array(rows, np.int32)


def test_the_metrics_of_a_target_in_third_place() -> None:
    row = measure(rankings([5, 1, 7, 2]), np.array([7], np.int32), ks=(2, 4), n_items=8)
    assert (
        row["recall@2"] == row["precision@2"] == row["f1@2"] == row["ndcg@2"] == row["mrr@2"] == 0
    )
    assert row["recall@4"] == 1
    assert row["precision@4"] == 1 / 4
    assert row["f1@4"] == pytest.approx(2 * (1 / 4) * 1 / (1 / 4 + 1))
    assert row["ndcg@4"] == 0.5  # 1 / log2(4)
    assert row["mrr@4"] == pytest.approx(1 / 3)
    assert row["coverage@2"] == 2 / 8
    assert row["coverage@4"] == 4 / 8


def test_metrics_are_averaged_over_users_and_an_absent_target_counts_nothing() -> None:
    targets = np.array([3, 3], np.int32)
    row = measure(rankings([3, 1], [1, 2]), targets, ks=(2,), n_items=4)
    assert row["ndcg@2"] == row["recall@2"] == row["mrr@2"] == 0.5


def test_without_users_every_metric_is_zero() -> None:
    row = measure(np.zeros((0, 5), np.int32), np.zeros(0, np.int32), ks=(5,), n_items=3)
    assert set(row.values()) == {0.0}


def test_an_open_place_is_nobodys_target_and_covers_nothing() -> None:
    assert coverage(rankings([2, -1], [2, -1]), k=2, n_items=4) == 1 / 4


@pytest.mark.filterwarnings("ignore")  # of numba, which ranx is written in
def test_metrics_equal_those_of_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, the test a second
    from ranx import Qrels, Run, evaluate

    rng = np.random.default_rng(0)
    ranking = np.stack([rng.permutation(N_ITEMS)[:20] for _ in range(50)]).astype(np.int32)
    targets = rng.integers(0, N_ITEMS, 50).astype(np.int32)
    qrels = Qrels({f"u{user}": {f"i{item}": 1} for user, item in enumerate(targets)})
    run = Run(
        {
            f"u{user}": {f"i{item}": 1.0 / (place + 1) for place, item in enumerate(items)}
            for user, items in enumerate(ranking)
        }
    )
    ks = (1, 5, 10, 20)
    ours = measure(ranking, targets, ks, N_ITEMS)
    names = [f"{name}@{k}" for name in METRICS for k in ks]
    theirs = evaluate(qrels, run, names)
    assert {name: ours[name] for name in names} == pytest.approx(theirs)


def test_equal_scores_are_ordered_by_number() -> None:
    scores = np.array([[1, 3, 3, 0, 3]], np.float32)
    assert top_items(scores, [np.zeros(0, np.int32)], 4).tolist() == [[1, 2, 4, 0]]


def test_seen_items_are_left_out() -> None:
    scores = np.array([[9, 8, 7, 6], [9, 8, 7, 6]], np.float32)
    seen = [np.array([0, 2, 0], np.int32), np.zeros(0, np.int32)]
    assert top_items(scores, seen, 2).tolist() == [[1, 3], [0, 1]]
    assert scores[0, 0] == 9  # the caller's scores stay as they were


def test_rankings_longer_than_the_catalogue_end_in_open_places() -> None:
    scores = np.array([[1, -np.inf, 2]], np.float32)
    assert top_items(scores, [np.zeros(0, np.int32)], 5).tolist() == [[2, 0, -1, -1, -1]]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12), values=st.integers(1, 5))
def test_top_items_are_the_head_of_a_stable_sort(seed: int, k: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, (3, 9)).astype(np.float32)
    seen = [rng.integers(0, 9, rng.integers(0, 6)).astype(np.int32) for _ in range(3)]
    for row, ranking in enumerate(top_items(scores, seen, k)):
        order = np.argsort(-scores[row], kind="stable")
        expected = [item for item in order if item not in seen[row]][:k]
        assert ranking.tolist() == expected + [-1] * (k - len(expected))


def test_the_rank_of_a_target_counts_from_one() -> None:
    ranks = rank_of(np.array([4, 2, 9], np.int32), rankings([4, 2], [4, 2], [4, 2]))
    assert ranks[:2].tolist() == [1, 2]
    assert ranks[2] > 10**9
