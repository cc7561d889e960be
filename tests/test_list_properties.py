"""Properties of lists, in small cases that one can compute by hand and against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.list_properties import (
    coverage,
    gini,
    intra_list_diversity,
    list_values,
    mean_of_defined,
    novelty,
    popularity_bias,
    popularity_percentile,
)
from worlds import clustered_vectors


def rankings(*rows: list[int]) -> NDArray[np.int32]:
    return np.array(rows, np.int32)


def test_an_open_place_covers_nothing() -> None:
    assert coverage(rankings([2, -1], [2, -1]), k=2, n_items=4) == 1 / 4
    assert coverage(rankings([2, 1], [2, 0]), k=1, n_items=4) == 1 / 4


def test_exposure_is_equal_if_every_item_is_shown_as_often() -> None:
    assert gini(rankings([0, 1], [2, 3]), k=2, n_items=4) == 0


def test_exposure_is_most_unequal_if_one_item_has_every_place() -> None:
    assert gini(rankings([3], [3], [3]), k=1, n_items=4) == 3 / 4


def test_nothing_shown_is_shared_equally() -> None:
    assert gini(rankings([-1, -1]), k=2, n_items=3) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(shown: list[int]) -> None:
    counts = np.bincount(shown, minlength=6)
    difference = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    ranking = np.array(shown, np.int32)[:, None]
    assert gini(ranking, k=1, n_items=6) == pytest.approx(difference)


def test_novelty_is_counted_in_bits() -> None:
    interactions = np.array([4, 2, 2, 0])  # p = 1/2, 1/4, 1/4; none counts as one: 1/8
    ranking = rankings([0, 1], [1, 2], [3, -1], [-1, -1])
    assert novelty(ranking, 2, interactions)[:3].tolist() == [1.5, 2, 3]
    assert novelty(ranking, 1, interactions)[:3].tolist() == [1, 2, 3]
    assert np.isnan(novelty(ranking, 2, interactions)[3])


def test_diversity_is_zero_within_a_cluster_and_one_across_clusters() -> None:
    vectors = clustered_vectors(clusters=3, items_each=4, dim=8)  # item i is of cluster i % 3
    ranking = rankings([0, 3, 6], [0, 1, 2], [0, 3, 1])
    diversity = intra_list_diversity(ranking, 3, vectors)
    assert diversity.tolist() == pytest.approx([0, 1, 2 / 3], abs=0.1)
    assert intra_list_diversity(ranking, 2, vectors)[2] == pytest.approx(0, abs=0.1)


def test_one_item_has_no_diversity() -> None:
    assert np.isnan(intra_list_diversity(rankings([1, -1]), 2, np.eye(2, dtype=np.float32)))[0]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6))
def test_diversity_is_the_mean_over_all_pairs(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(8, 3)).astype(np.float32)
    vectors[0] = 0
    ranking = rng.permutation(8)[None, :6].astype(np.int32)
    cosines = []
    for one, other in combinations(vectors[ranking[0, :k]].astype(np.float64), 2):
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        cosines.append(one @ other / lengths if lengths else 0.0)
    expected = 1 - np.mean(cosines)
    assert intra_list_diversity(ranking, k, vectors)[0] == pytest.approx(expected, abs=1e-6)


def test_percentiles_of_equally_popular_items_are_equal() -> None:
    assert popularity_percentile(np.array([5, 1, 1, 9])).tolist() == [0.625, 0.25, 0.25, 0.875]


def test_the_bias_is_how_much_more_popular_the_shown_items_are_than_the_consumed_ones() -> None:
    interactions = np.array([1, 2, 3, 4])  # percentiles 1/8, 3/8, 5/8, 7/8
    histories = [np.array(items, np.int32) for items in ([0, 0], [3], [], [1])]
    bias = popularity_bias(rankings([3, 2], [0, 1], [3, 2], [1, -1]), 2, histories, interactions)
    assert bias[[0, 1, 3]].tolist() == [5 / 8, -5 / 8, 0]
    assert np.isnan(bias[2])


def test_all_properties_have_a_value_a_user_and_a_name_by_cut_off() -> None:
    values = list_values(
        rankings([0, 1], [1, 2]),
        ks=(1, 2),
        histories=[np.array([2], np.int32), np.array([0], np.int32)],
        interactions=np.array([1, 1, 1]),
        vectors=np.eye(3, dtype=np.float32),
    )
    assert set(values) == {
        f"{name}@{k}" for name in ("novelty", "diversity", "popularity_bias") for k in (1, 2)
    }
    assert values["diversity@2"].tolist() == [1, 1]
    assert values["popularity_bias@1"].tolist() == [0, 0]
    assert mean_of_defined(values["novelty@2"]) == pytest.approx(np.log2(3))


def test_what_is_not_defined_is_left_out_of_a_mean() -> None:
    assert mean_of_defined(np.array([1, np.nan, 2])) == 1.5
    assert mean_of_defined(np.array([np.nan])) == 0
