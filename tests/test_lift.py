"""The statistics of experiments: against scipy, and on worlds in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy import stats

from heliograph.lift import Lift, lift, sample_ratio

USERS = 400
WORLDS = 300

Values = NDArray[np.float64]
values = npst.arrays(
    np.float64, st.integers(2, 40), elements=st.floats(-1e3, 1e3, allow_subnormal=False)
)


def worlds(ratio: float, seed: int) -> list[Lift]:
    """Compare two arms again and again; the treatment's mean is `ratio` times the control's."""
    rng = np.random.default_rng(seed)
    control = rng.poisson(0.8, (WORLDS, USERS)) * rng.lognormal(0, 0.5, (WORLDS, USERS))
    treatment = rng.poisson(0.8, (WORLDS, 2 * USERS)) * rng.lognormal(0, 0.5, (WORLDS, 2 * USERS))
    return [lift(a, ratio * b) for a, b in zip(control, treatment, strict=True)]


@settings(max_examples=25)
@given(control=values, treatment=values)
def test_the_difference_is_that_of_scipy(control: Values, treatment: Values) -> None:
    assume(np.ptp(control) > 1e-3 and np.ptp(treatment) > 1e-3)  # scipy warns of what hardly varies
    found = lift(control, treatment)
    theirs = stats.ttest_ind(treatment, control, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.difference == pytest.approx(treatment.mean() - control.mean())


@settings(max_examples=40)
@given(control=values, treatment=values)
def test_both_intervals_say_the_same_of_no_difference(control: Values, treatment: Values) -> None:
    found = lift(control, treatment)
    assume(min(abs(found.low), abs(found.high)) > 1e-6)
    if found.relative_low is not None and found.relative_high is not None:
        assert found.relative is not None
        assert found.relative_low <= found.relative + 1e-9
        assert found.relative <= found.relative_high + 1e-9
        assume(min(abs(found.relative_low), abs(found.relative_high)) > 1e-9)
        excludes = found.low > 0 or found.high < 0
        assert (found.relative_low > 0 or found.relative_high < 0) == excludes


def test_a_bound_of_the_ratio_is_where_the_test_is_just_passed() -> None:
    rng = np.random.default_rng(5)
    control, treatment = rng.poisson(2, 50).astype(float), rng.poisson(3, 70).astype(float)
    found = lift(control, treatment)
    assert found.relative_low is not None and found.relative_high is not None
    quantile = (found.high - found.difference) / np.sqrt(
        control.var(ddof=1) / 50 + treatment.var(ddof=1) / 70
    )
    for bound in (found.relative_low, found.relative_high):
        ratio = 1 + bound
        off = treatment.mean() - ratio * control.mean()
        error = np.sqrt(treatment.var(ddof=1) / 70 + ratio**2 * control.var(ddof=1) / 50)
        assert abs(off / error) == pytest.approx(quantile)


def test_without_a_difference_the_p_values_are_spread_evenly() -> None:
    found = worlds(ratio=1.0, seed=1)
    assert stats.kstest([one.p_value for one in found], "uniform").pvalue > 0.01
    assert sum(one.p_value < 0.05 for one in found) < 0.09 * WORLDS


@pytest.mark.parametrize("ratio", [1.0, 1.4])
def test_the_intervals_hold_the_truth_as_often_as_they_say(ratio: float) -> None:
    found = worlds(ratio, seed=2)
    mean = 0.8 * np.exp(0.125)
    difference = sum(one.low <= (ratio - 1) * mean <= one.high for one in found)
    relative = sum(
        one.relative_low is not None
        and one.relative_high is not None
        and one.relative_low <= ratio - 1 <= one.relative_high
        for one in found
    )
    assert 0.92 * WORLDS < difference < 0.98 * WORLDS
    assert 0.92 * WORLDS < relative < 0.98 * WORLDS


def test_a_lift_that_is_there_is_found() -> None:
    found = worlds(ratio=1.4, seed=3)
    assert np.median([one.relative for one in found if one.relative]) == pytest.approx(
        0.4, abs=0.03
    )
    assert sum(one.p_value < 0.05 and one.low > 0 for one in found) > 0.95 * WORLDS


def test_a_control_that_has_nothing_divides_nothing() -> None:
    nothing, something = np.zeros(50), np.tile([0.0, 1.0], 25)
    found = lift(nothing, something)
    assert (found.relative, found.relative_low, found.relative_high) == (None, None, None)
    assert found.difference == 0.5 and found.low > 0
    back = lift(something, nothing)
    assert back.relative == -1 and back.relative_high is not None and back.relative_high < 0


def test_values_that_are_all_alike_leave_no_doubt() -> None:
    assert lift(np.ones(9), np.ones(9)).p_value == 1
    certain = lift(np.ones(9), np.full(9, 2.0))
    assert (certain.p_value, certain.low, certain.high) == (0, 1, 1)
    assert (certain.relative, certain.relative_low, certain.relative_high) == (1, 1, 1)


def test_an_arm_of_one_user_is_refused() -> None:
    with pytest.raises(ValueError, match="arms of 1 and 5 users"):
        lift(np.ones(1), np.ones(5))


@settings(max_examples=25)
@given(st.integers(100, 10_000), st.integers(100, 10_000), st.floats(0.1, 0.9))
def test_the_sample_ratio_is_tested_as_by_scipy(control: int, treatment: int, share: float) -> None:
    users = control + treatment
    theirs = stats.chisquare((control, treatment), (users * (1 - share), users * share)).pvalue
    found = sample_ratio(control, treatment, share)
    assert found.p_value == pytest.approx(theirs)
    assert found.is_broken == (theirs < 0.001)
    assert found.share == treatment / users


def test_a_division_that_loses_users_is_found_and_a_sound_one_is_not() -> None:
    assert sample_ratio(50_000, 48_000, 0.5).is_broken  # 4 % of the treatment are missing
    assert not sample_ratio(50_100, 49_900, 0.5).is_broken
    counts = np.random.default_rng(4).binomial(20_000, 0.2, 500)
    assert sum(sample_ratio(20_000 - int(n), int(n), 0.2).is_broken for n in counts) <= 3


def test_few_users_prove_nothing() -> None:
    found = sample_ratio(0, 6, 0.5)
    assert (found.p_value, found.is_broken) == (None, False)
