"""Every recommender gives the known right answer in the world that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from implicit.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from heliograph.config import AlsConfig, PopularityConfig, TextConfig, TransitionsConfig
from heliograph.evaluation import top_items
from heliograph.interactions import History, Interactions
from heliograph.models import Model, VectorModel
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions, count_transitions, keep_largest
from worlds import checkerboard, clustered_vectors, cycle, interactions

DAY_US = 86_400_000_000
EMPTY: History = np.zeros(0, np.int32)


def history(*items: int) -> History:
    return np.array(items, np.int32)


def fit_als(events: Interactions, n_items: int, **settings: float) -> Als:
    config = AlsConfig.model_validate({"factors": 8, "confidence": 10.0} | settings)
    return Als.fit(config, events, n_items, seed=3)


def fitted_models() -> dict[str, Model]:
    events = checkerboard(12)
    return {
        "popularity": Popularity.fit(PopularityConfig(), events, 12),
        "transitions": Transitions.fit(TransitionsConfig(), events, 12),
        "als": fit_als(events, 12),
        "text": Text.fit(TextConfig(), clustered_vectors(3, 4, dim=6)),
    }


@pytest.mark.parametrize("name", ["popularity", "transitions", "als", "text"])
def test_a_model_that_was_saved_and_loaded_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    model = fitted_models()[name]
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    histories = [history(0, 2), EMPTY, history(1, 1, 5)]
    np.testing.assert_array_equal(loaded.scores(histories), model.scores(histories))


@pytest.mark.parametrize("name", ["popularity", "transitions", "als", "text"])
def test_scores_have_a_row_for_each_history_and_a_column_for_each_item(name: str) -> None:
    model = fitted_models()[name]
    scores = model.scores([EMPTY, history(3)])
    assert scores.shape == (2, 12)
    assert scores.dtype == np.float32
    assert not np.isnan(scores).any()
    assert model.scores([]).shape == (0, 12)


def test_the_models_behind_an_index_are_those_with_vectors() -> None:
    with_vectors = {
        name for name, model in fitted_models().items() if isinstance(model, VectorModel)
    }
    assert with_vectors == {"als", "text"}


# popularity


def test_the_most_popular_item_has_the_most_interactions() -> None:
    model = Popularity.fit(PopularityConfig(), interactions([[2, 1], [2], [2, 1]]), n_items=4)
    assert model.scores([EMPTY, history(2)]).argmax(axis=1).tolist() == [2, 2]
    np.testing.assert_allclose(model.item_scores, np.log1p([0, 2, 3, 0]), rtol=1e-6)
    assert model.ranking.tolist() == [2, 1, 0, 3]  # equal ones in order of number


def test_an_interaction_loses_half_its_weight_in_a_half_life() -> None:
    timestamps = np.array([0, 2 * DAY_US, 4 * DAY_US], np.int64)
    events = Interactions(["u"], np.array([0, 3]), history(0, 1, 2), timestamps)
    model = Popularity.fit(PopularityConfig(half_life_days=2), events, n_items=3)
    np.testing.assert_allclose(model.item_scores, np.log1p([0.25, 0.5, 1.0]), rtol=1e-6)


def test_without_events_nothing_is_popular() -> None:
    model = Popularity.fit(PopularityConfig(half_life_days=2), interactions([]), n_items=3)
    assert model.item_scores.tolist() == [0, 0, 0]


# transitions


def test_transitions_are_counted_by_one_over_the_root_of_the_distance() -> None:
    counts = count_transitions(interactions([[0, 1, 2], [0, 1]]), window=2, n_items=4).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = 2.0  # twice next to each other
    expected[1, 2] = 1.0
    expected[0, 2] = 2**-0.5  # two places apart
    np.testing.assert_allclose(counts, expected)


def test_transitions_count_every_repetition_and_never_cross_users() -> None:
    counts = count_transitions(interactions([[0, 0, 1], [2]]), window=5, n_items=3).toarray()
    expected = np.zeros((3, 3))
    expected[0, 0] = 1.0
    expected[0, 1] = 1 + 2**-0.5  # after the second 0 and, at distance 2, after the first
    np.testing.assert_allclose(counts, expected)


def test_keep_largest_keeps_the_largest_of_each_row_and_of_equal_ones_the_first() -> None:
    dense = np.array([[3.0, 0.0, 5.0, 4.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 4, [2.0, 2.0, 2.0, 0.0]])
    kept = keep_largest(sparse.csr_array(dense), 2)
    expected = [[0, 0, 5, 4], [0, 0, 0, 1], [0] * 4, [2, 2, 0, 0]]
    np.testing.assert_array_equal(kept.toarray(), expected)


def test_the_score_of_a_follower_is_the_sum_of_the_formula() -> None:
    config = TransitionsConfig(window=1, decay=0.5, smoothing=10.0, popularity_exponent=-0.5)
    model = Transitions.fit(config, interactions([[0, 1], [0, 1], [2, 1], [0, 3]]), n_items=4)
    scores = model.scores([history(2, 0)])[0]
    # item 1 follows 0 twice and 2 once; 0 is the newest; 1 occurs 3 times
    assert scores[1] == pytest.approx(
        np.log1p(2 * 4 / 10) + 0.5 * np.log1p(1 * 4 / 10) - 0.5 * np.log(3)
    )
    assert scores[3] == pytest.approx(np.log1p(1 * 4 / 10))  # occurs once: log 1 = 0
    assert scores[[0, 2]].tolist() == [-np.inf, -np.inf]


def test_a_repeated_item_counts_at_each_of_its_places() -> None:
    config = TransitionsConfig(window=1, decay=0.5, smoothing=1.0, popularity_exponent=0.0)
    model = Transitions.fit(config, interactions([[0, 1]]), n_items=2)
    once, twice = model.scores([history(0), history(0, 0)])[:, 1]
    assert twice == pytest.approx(1.5 * once)


def test_items_that_weigh_less_than_a_thousandth_are_left_out() -> None:
    model = Transitions.fit(TransitionsConfig(decay=0.6), cycle(30, 30, 5), n_items=30)
    assert len(model.weights) == 14  # 0.6 ** 13 = 0.0013, 0.6 ** 14 = 0.0008
    long = history(*range(30))
    np.testing.assert_array_equal(model.scores([long]), model.scores([long[-14:]]))


def test_in_a_cycle_the_next_item_comes_first() -> None:
    model = Transitions.fit(TransitionsConfig(), cycle(10, 40, 5), n_items=10)
    histories = [history((item - 1) % 10, item) for item in range(10)]
    assert model.scores(histories).argmax(axis=1).tolist() == [*range(1, 10), 0]


@pytest.mark.parametrize("sequences", [[], [[1]], [[0], [2]]])
def test_transitions_without_a_single_pair_have_no_opinion(sequences: list[list[int]]) -> None:
    model = Transitions.fit(TransitionsConfig(), interactions(sequences), n_items=3)
    assert np.isneginf(model.scores([history(0, 1)])).all()


# als


def test_als_finds_the_diagonal_of_a_checkerboard() -> None:
    size = 20
    events = checkerboard(size)
    scores = fit_als(events, size, factors=2, regularization=0.01).scores(events.histories())
    assert top_items(scores, events.histories(), 1)[:, 0].tolist() == list(range(size))


def test_als_folds_a_user_in_as_implicit_does() -> None:
    rng = np.random.default_rng(0)
    events = interactions([rng.permutation(40)[:8].tolist() for _ in range(60)])
    model = fit_als(events, 40, factors=6, regularization=0.1)
    reference = AlternatingLeastSquares(
        factors=6, regularization=0.1, alpha=10.0, use_gpu=False, use_cg=False
    )
    reference.item_factors = model.item_vectors
    rows = np.repeat(np.arange(60), 8)
    matrix = sparse.csr_matrix((np.ones(480, np.float32), (rows, events.items)), shape=(60, 40))
    with threadpool_limits(limits=1, user_api="blas"):
        expected = np.stack([reference.recalculate_user(user, matrix[user]) for user in range(60)])
    np.testing.assert_allclose(model.queries(events.histories()), expected, atol=1e-4)


def test_als_counts_a_repeated_item_once() -> None:
    model = fit_als(checkerboard(12), 12)
    once, repeated = model.queries([history(2, 4), history(4, 2, 2, 4)])
    np.testing.assert_array_equal(once, repeated)


def test_als_knows_nothing_of_a_user_without_a_history() -> None:
    assert not fit_als(checkerboard(12), 12).queries([EMPTY]).any()


def test_als_with_the_same_seed_gives_the_same_factors() -> None:
    first, second = (fit_als(checkerboard(12), 12).item_vectors for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_als_without_regularization_and_with_too_many_factors_still_has_an_answer() -> None:
    model = fit_als(checkerboard(8), 8, factors=16, regularization=0.0)
    scores = model.scores([history(0, 2)])
    assert np.abs(scores).max() < 2  # an item that is liked has a score near 1
    assert scores[0, [0, 2]].min() > 0.5


# text


def test_text_prefers_the_cluster_of_the_history() -> None:
    model = Text.fit(TextConfig(), clustered_vectors(3, 4, dim=6))
    best = top_items(model.scores([history(1, 4)]), [history(1, 4)], 2)
    assert sorted(best[0].tolist()) == [7, 10]


def test_text_weighs_an_item_half_after_a_half_life() -> None:
    vectors = np.eye(3, dtype=np.float32)
    query = Text(vectors, half_life=1.0).queries([history(0, 1)])[0]
    np.testing.assert_allclose(query, np.array([0.5, 1.0, 0.0]) / np.sqrt(1.25), rtol=1e-6)


def test_text_of_a_very_long_history_is_that_of_its_newest_items() -> None:
    model = Text(np.eye(3, dtype=np.float32), half_life=2.0)
    long = history(*[0] * 5000, *[1] * 100)
    np.testing.assert_allclose(model.queries([long]), [[0, 1, 0]], atol=1e-6)


def test_text_says_nothing_where_all_texts_are_alike() -> None:
    alike = np.tile(clustered_vectors(1, 1, dim=384), (7, 1))
    assert not Text.fit(TextConfig(), alike).queries([history(0, 3)]).any()


def test_text_of_one_item_is_not_centred_away() -> None:
    vectors = np.array([[0.6, 0.8]], np.float32)
    assert Text.fit(TextConfig(), vectors).scores([history(0)])[0, 0] == pytest.approx(1.0)


def test_saved_text_vectors_can_be_mapped_and_not_changed(tmp_path: Path) -> None:
    model = Text.fit(TextConfig(), clustered_vectors(3, 4, dim=6))
    model.save(tmp_path)
    mapped = Text.mapped(tmp_path).item_vectors
    assert np.array_equal(mapped, model.item_vectors)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_text_knows_nothing_of_a_user_without_a_history() -> None:
    assert not Text.fit(TextConfig(), clustered_vectors(3, 4, dim=6)).queries([EMPTY]).any()


@pytest.mark.parametrize("make", [lambda: checkerboard(6), lambda: cycle(5, 3, 4)])
def test_worlds_are_consistent(make: Callable[[], Interactions]) -> None:
    events = make()
    assert events.offsets[-1] == len(events) == len(events.timestamps)
    assert all(
        (np.diff(events.timestamps[a:b]) > 0).all()
        for a, b in zip(events.offsets, events.offsets[1:], strict=False)
    )
