"""Metrics are those one computes by hand, and those of ranx."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.evaluation import METRICS, measure, per_user, rank_of, ranks_of, top_items

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
    assert row["mrr@4"] == row["map@4"] == pytest.approx(1 / 3)
    assert row["hit_rate@4"] == 1
    assert row["coverage@2"] == 2 / 8
    assert row["coverage@4"] == 4 / 8


def test_metrics_are_averaged_over_users_and_an_absent_target_counts_nothing() -> None:
    targets = np.array([3, 3], np.int32)
    row = measure(rankings([3, 1], [1, 2]), targets, ks=(2,), n_items=4)
    assert row["ndcg@2"] == row["recall@2"] == row["mrr@2"] == 0.5


def test_without_users_every_metric_is_zero() -> None:
    row = measure(np.zeros((0, 5), np.int32), np.zeros(0, np.int32), ks=(5,), n_items=3)
    assert set(row.values()) == {0.0}


def test_the_metrics_of_several_relevant_items_are_those_one_computes_by_hand() -> None:
    held_out = [np.array([7, 1, 9], np.int32)]  # found in places 2 and 3 of 4; 9 is not found
    values = per_user(rankings([5, 1, 7, 2]), held_out, ks=(2, 4))
    assert {name: value.tolist() for name, value in values.items() if name.endswith("@4")} == {
        "recall@4": pytest.approx([2 / 3]),
        "precision@4": [2 / 4],
        "f1@4": pytest.approx([2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)]),
        "hit_rate@4": [1],
        "ndcg@4": pytest.approx(
            [(1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3) + 1 / np.log2(4))]
        ),
        "mrr@4": [1 / 2],
        "map@4": pytest.approx([(1 / 2 + 2 / 3) / 3]),
    }
    assert values["recall@2"].tolist() == pytest.approx([1 / 3])
    assert values["ndcg@2"] == pytest.approx([1 / np.log2(3) / (1 + 1 / np.log2(3))])


def test_a_list_of_only_relevant_items_is_perfect_even_if_more_are_relevant() -> None:
    values = per_user(rankings([3, 1]), [np.array([1, 2, 3, 4], np.int32)], ks=(2,))
    assert values["precision@2"].tolist() == values["ndcg@2"].tolist() == [1]
    assert values["recall@2"].tolist() == values["map@2"].tolist() == [1 / 2]


def test_an_item_held_out_twice_is_one_item() -> None:
    once, twice = (
        per_user(rankings([3, 1]), [np.array(items, np.int32)], ks=(1, 2))
        for items in ([3, 4], [3, 4, 3])
    )
    assert {name: value.tolist() for name, value in once.items()} == {
        name: value.tolist() for name, value in twice.items()
    }


def test_a_user_without_relevant_items_scores_nothing() -> None:
    values = per_user(rankings([3, -1]), [np.zeros(0, np.int32)], ks=(1, 2))
    assert {value.tolist()[0] for value in values.values()} == {0.0}


def test_one_relevant_item_scores_alike_in_either_form() -> None:
    rng = np.random.default_rng(0)
    ranking = random_rankings(rng, 40)
    targets = rng.integers(0, N_ITEMS, 40).astype(np.int32)
    single = measure(ranking, targets, (1, 5, 20), N_ITEMS)
    assert single == measure(
        ranking, [targets[row : row + 1] for row in range(40)], (1, 5, 20), N_ITEMS
    )


def test_a_ranking_shorter_than_the_cut_off_ends_in_open_places() -> None:
    targets = np.array([3], np.int32)
    short = per_user(rankings([1, 3]), targets, ks=(4,))
    assert short == per_user(rankings([1, 3, -1, -1]), targets, ks=(4,))


def test_rankings_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="1 users have held-out items, but 2 have a ranking"):
        ranks_of([np.array([1], np.int32)], rankings([1], [2]))


def brute_force(ranking: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """Score one list as the textbooks define it, item by item."""
    places = [place for place, item in enumerate(ranking[:k], 1) if item in relevant]
    found, total = len(places), max(len(relevant), 1)
    recall, precision = found / total, found / k
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, total) + 1))
    precisions = [len([p for p in places if p <= place]) / place for place in places]
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * precision * recall / (precision + recall) if found else 0.0,
        "hit_rate": float(found > 0),
        "ndcg": sum(1 / math.log2(place + 1) for place in places) / ideal,
        "mrr": 1 / places[0] if places else 0.0,
        "map": sum(precisions) / total,
    }


@given(
    ranking=st.lists(st.integers(0, 9), unique=True, max_size=8),
    relevant=st.sets(st.integers(0, 11), max_size=12),
    k=st.integers(1, 10),
)
def test_metrics_equal_their_definition(ranking: list[int], relevant: set[int], k: int) -> None:
    row = np.array([ranking + [-1] * (8 - len(ranking))], np.int32)
    ours = per_user(row, [np.array(sorted(relevant), np.int32)], (k,))
    expected = brute_force(ranking, relevant, k)
    assert {name: ours[f"{name}@{k}"][0] for name in METRICS} == pytest.approx(expected)


def random_rankings(rng: np.random.Generator, users: int) -> NDArray[np.int32]:
    return np.stack([rng.permutation(N_ITEMS)[:20] for _ in range(users)]).astype(np.int32)


@pytest.mark.filterwarnings("ignore")  # of numba, which ranx is written in
@pytest.mark.parametrize("most", [1, 7])
def test_metrics_equal_those_of_ranx(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, the test a second
    from ranx import Qrels, Run, evaluate

    rng = np.random.default_rng(0)
    ranking = random_rankings(rng, 50)
    held_out = [
        rng.permutation(N_ITEMS)[: rng.integers(1, most + 1)].astype(np.int32) for _ in ranking
    ]
    qrels = Qrels(
        {f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(held_out)}
    )
    run = Run(
        {
            f"u{user}": {f"i{item}": 1.0 / (place + 1) for place, item in enumerate(items)}
            for user, items in enumerate(ranking)
        }
    )
    ks = (1, 5, 10, 20)
    ours = measure(ranking, held_out, ks, N_ITEMS)
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
