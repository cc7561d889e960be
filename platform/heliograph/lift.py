"""Whether one arm of an experiment did better than the other, and whether they may be compared.

Knows a number a user, not what it counts. Users are the unit, since they are what was divided:
answers to one user depend on each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
SRM_LEVEL = 0.001
"""Below it a division of users is taken for broken: the threshold of Fabijan et al. (2019)."""

LEAST_EXPECTED = 5.0
"""Users that an arm must be expected to have for a chi-square test to mean anything: Cochran: Some
methods for strengthening the common chi-square tests, Biometrics 10, 1954."""


@dataclass(frozen=True)
class Lift:
    """The treatment against the control, by the mean over users."""

    control: float
    treatment: float
    difference: float
    """treatment - control."""

    low: float
    high: float
    """95 % interval of the difference."""

    relative: float | None
    """treatment / control - 1; None where the control has nothing."""

    relative_low: float | None
    relative_high: float | None
    """95 % interval of it; None where the control is too close to nothing to divide by. It holds 0
    if and only if that of the difference does."""

    p_value: float
    """Of a difference this large, either way, if there is none."""


@dataclass(frozen=True)
class SampleRatio:
    """Whether users are divided as they were meant to be."""

    expected_share: float
    """Of users in the treatment."""

    share: float
    p_value: float | None
    """None: too few users to tell."""

    is_broken: bool
    """Then nothing that the arms are compared by means anything."""


def lift(control: NDArray[np.float64], treatment: NDArray[np.float64]) -> Lift:
    """Compare two arms by (users,) values each, two or more.

    The difference by Welch: The generalization of Student's problem when several different
    population variances are involved, Biometrika 34, 1947. The ratio by Fieller: Some problems in
    interval estimation, Journal of the Royal Statistical Society B 16, 1954, with the same
    quantile: it holds those ratios r for which treatment - r control could be 0.

    Raises:
        ValueError: An arm has fewer than two users.
    """
    if min(len(control), len(treatment)) < 2:
        raise ValueError(
            f"arms of {len(control)} and {len(treatment)} users cannot be compared; "
            "each needs two or more"
        )
    before, after = float(control.mean()), float(treatment.mean())
    noise_before, noise_after = (float(arm.var(ddof=1) / len(arm)) for arm in (control, treatment))
    error = math.sqrt(noise_before + noise_after)
    freedom = _freedom(noise_before, len(control), noise_after, len(treatment))
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    ratios = _fieller(before, after, quantile**2 * noise_before, quantile**2 * noise_after)
    return Lift(
        control=before,
        treatment=after,
        difference=after - before,
        low=after - before - quantile * error,
        high=after - before + quantile * error,
        relative=after / before - 1 if before else None,
        relative_low=None if ratios is None else ratios[0] - 1,
        relative_high=None if ratios is None else ratios[1] - 1,
        p_value=_p_value(after - before, error, freedom),
    )


def sample_ratio(control: int, treatment: int, share: float) -> SampleRatio:
    """Test whether the users of two arms are divided as they were meant to be.

    Chi-square test of the counts: Fabijan, Gupchup, Gupta, Omhover, Qin, Vermeer, Dmitriev:
    Diagnosing sample ratio mismatch in online controlled experiments, KDD 2019.

    Args:
        control: Users, at least one in both together.
        treatment: Users.
        share: Meant to be in the treatment, in (0, 1).
    """
    users = control + treatment
    expected = (users * (1 - share), users * share)
    p_value = None
    if min(expected) >= LEAST_EXPECTED:
        p_value = float(stats.chisquare((control, treatment), expected).pvalue)
    is_broken = p_value is not None and p_value < SRM_LEVEL
    return SampleRatio(share, treatment / users, p_value, is_broken)


def _freedom(noise_before: float, users_before: int, noise_after: float, users_after: int) -> float:
    """Return the degrees of freedom of Welch's test, by the equation of Satterthwaite."""
    total = noise_before + noise_after
    if total == 0:
        return math.inf
    # shares first: squares of small variances would be 0
    before, after = noise_before / total, noise_after / total
    return 1 / (before**2 / (users_before - 1) + after**2 / (users_after - 1))


def _p_value(difference: float, error: float, freedom: float) -> float:
    if error == 0:  # values that are all alike leave no doubt
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference / error), freedom))


def _fieller(
    before: float, after: float, margin_before: float, margin_after: float
) -> tuple[float, float] | None:
    """Return the lowest and the highest ratio after / before, or None where they have no bounds.

    Args:
        before: Mean of what is divided by.
        after: The other mean.
        margin_before: Squared half-width of the interval of the first mean.
        margin_after: Squared half-width of that of the other.
    """
    # the roots of (before^2 - margin_before) r^2 - 2 before after r + after^2 - margin_after
    scale = before**2 - margin_before
    if scale <= 0:
        return None
    root = (before * after) ** 2 - scale * (after**2 - margin_after)
    half = math.sqrt(max(root, 0.0)) / scale
    middle = before * after / scale
    return middle - half, middle + half
