"""Comparisons whose outcome is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heliograph.significance import compare_with, holm, mean_interval, paired_difference


def test_a_difference_of_every_user_is_no_accident() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(200)
    found = paired_difference(baseline + 0.1 + rng.normal(scale=0.01, size=200), baseline, seed=0)
    assert found.users == 200
    assert found.difference == pytest.approx(0.1, abs=0.003)
    assert 0.095 < found.low < found.difference < found.high < 0.105
    assert found.p_value < 1e-100


def test_a_textbook_t_test() -> None:
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3) with 2 degrees of freedom
    found = paired_difference(np.array([2.0, 3, 4]), np.ones(3), seed=0)
    assert found.difference == 2
    t = 2 * np.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / np.sqrt(t**2 + 2))


def test_a_system_is_no_better_than_itself() -> None:
    values = np.array([0.0, 0.5, 1])
    found = paired_difference(values, values, seed=0)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_constant_gain_leaves_no_doubt() -> None:
    found = paired_difference(np.array([0.5, 1.5, 2.5]), np.array([0.0, 1, 2]), seed=0)
    assert (found.low, found.high, found.p_value) == (0.5, 0.5, 0)


def test_swapping_the_systems_turns_the_sign_only() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.random(50), rng.random(50)
    forth, back = paired_difference(one, other, 0), paired_difference(other, one, 0)
    assert forth.difference == pytest.approx(-back.difference)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p_value == pytest.approx(back.p_value)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_the_p_value_is_that_of_scipy(seed: int, users: int) -> None:
    one, other = np.random.default_rng(seed).random((2, users))
    expected = stats.ttest_rel(one, other).pvalue
    assert paired_difference(one, other, seed=0).p_value == pytest.approx(expected)


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.05])
def test_the_p_value_agrees_with_a_randomisation_test(gain: float) -> None:
    rng = np.random.default_rng(5)
    baseline, system = 1 / rng.integers(1, 11, (2, 300))  # reciprocal ranks
    differences = system + gain - baseline
    randomised = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=4000, rng=rng
    )
    found = paired_difference(system + gain, baseline, seed=0)
    assert found.p_value == pytest.approx(randomised.pvalue, abs=0.03)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.random(100), seed) for seed in range(200)]
    held = sum(low < 0.5 < high for low, high in intervals)
    assert 180 <= held <= 198  # 190 expected, 3 the standard deviation


def test_without_a_difference_few_p_values_are_small() -> None:
    rng = np.random.default_rng(2)
    pairs = rng.random((400, 2, 30))
    small = sum(paired_difference(one, other, 0).p_value < 0.05 for one, other in pairs[:200])
    assert small <= 20  # 10 expected


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(30)
    assert mean_interval(values, 7) == mean_interval(values, 7) != mean_interval(values, 8)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * .005, 3 * .01, 2 * .03, .04
        ([0.02], [0.02]),
        ([0.6, 0.7], [1, 1]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_multiplies_the_smallest_most(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_raw_values_and_bonferroni_and_keeps_their_order(
    p_values: list[float],
) -> None:
    adjusted = holm(p_values)
    for p, own in zip(p_values, adjusted, strict=True):
        assert p <= own <= min(p * len(p_values), 1)
    assert [adjusted[row] for row in np.argsort(p_values)] == sorted(adjusted)


def test_every_system_is_compared_with_the_baseline() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.random(100)
    values = {
        "popularity": baseline,
        "better": baseline + rng.normal(0.1, 0.1, 100),
        "alike": baseline + rng.normal(0, 0.1, 100),
    }
    found = compare_with("popularity", values, seed=0)
    assert list(found) == ["better", "alike"]
    assert found["better"].p_adjusted == 2 * found["better"].p_value < 0.001
    assert found["alike"].p_adjusted == found["alike"].p_value > 0.05
    assert found["alike"].low < 0 < found["alike"].high


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="als has no values; choose one of a, b"):
        compare_with("als", {"a": np.zeros(2), "b": np.zeros(2)}, seed=0)


@pytest.mark.parametrize(("one", "other"), [(3, 2), (1, 1), (0, 0)])
def test_users_that_cannot_be_paired_are_refused(one: int, other: int) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros(one), np.zeros(other), seed=0)


def test_a_user_without_a_value_is_named() -> None:
    with pytest.raises(ValueError, match="1 of 3 users have no value, the first in row 1"):
        paired_difference(np.zeros(3), np.array([0, np.nan, 1]), seed=0)
