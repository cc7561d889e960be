"""Whether one system is better than another, or the users were just kind to it.

Knows values a user, not what they measure. Users are the unit: they are drawn anew by the
bootstrap, and each is his own control in a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
"""Efron and Tibshirani (1993) ask for 1000 or more where percentiles are read off."""

BATCH = 4_000_000
"""Values drawn at once: bounds the memory of a bootstrap to some 64 MB."""


@dataclass(frozen=True)
class PairedDifference:
    """A system against a baseline, on the same users."""

    users: int
    difference: float
    """Mean over users of system - baseline."""

    low: float
    high: float
    """95 % interval of the difference, by bootstrap."""

    p_value: float
    """Of a difference this large, either way, if there is none; paired t-test."""

    p_adjusted: float
    """The same among all comparisons made at once (Holm); of a single one, `p_value`."""


def paired_difference(
    system: NDArray[np.float64], baseline: NDArray[np.float64], seed: int
) -> PairedDifference:
    """Compare two systems by the values of the same users, in the same order.

    The p value is that of Student's paired t-test, which on values of retrieval metrics agrees with
    the randomisation test at a fraction of its cost: Smucker, Allan, Carterette: A comparison of
    statistical significance tests for information retrieval evaluation, CIKM 2007. With few users,
    or few whose value differs, as of hit rates, it is the less cautious of the two.

    Args:
        system: (users,) values.
        baseline: (users,) values.
        seed: Of the bootstrap.

    Raises:
        ValueError: The users differ, are fewer than two, or one has no value.
    """
    if system.shape != baseline.shape or system.ndim != 1 or len(system) < 2:
        raise ValueError(
            f"values of shapes {system.shape} and {baseline.shape} cannot be paired; give one "
            "value for each of the same users, two or more, to both"
        )
    undefined = np.isnan(system) | np.isnan(baseline)
    if undefined.any():
        raise ValueError(
            f"{undefined.sum()} of {len(system)} users have no value, the first in row "
            f"{undefined.argmax()}; leave them out of both systems"
        )
    differences = system - baseline
    low, high = mean_interval(differences, seed)
    p_value = _t_test(differences)
    return PairedDifference(
        len(differences), float(differences.mean()), low, high, p_value, p_adjusted=p_value
    )


def compare_with(
    baseline: str, values: Mapping[str, NDArray[np.float64]], seed: int
) -> dict[str, PairedDifference]:
    """Compare every other system with the baseline, adjusting for the number of comparisons.

    Args:
        baseline: A key of `values`.
        values: System -> (users,) values of the same users.
        seed: Of the bootstrap; every comparison draws the same users.

    Raises:
        ValueError: The baseline is not among the systems, or users differ.
    """
    if baseline not in values:
        raise ValueError(f"{baseline} has no values; choose one of {', '.join(values)}")
    found = {
        name: paired_difference(system, values[baseline], seed)
        for name, system in values.items()
        if name != baseline
    }
    adjusted = holm([row.p_value for row in found.values()])
    return {
        name: replace(row, p_adjusted=p)
        for (name, row), p in zip(found.items(), adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values so that the chance of any false finding among them stays below the level.

    The i-th smallest of m, counted from 0, is multiplied by m - i, and is at least as large as the
    one before it. Holm: A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 1979. Needs no independence.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in adjusted]


def mean_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of (users,) values, two or more, by bootstrap.

    Percentiles of the means of users drawn with replacement. Efron and Tibshirani: An Introduction
    to the Bootstrap (1993), chapter 13.
    """
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(BATCH // len(values), 1),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _t_test(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p value of a mean of 0; differences that are all alike leave no doubt.

    Written out because scipy warns of differences that hardly vary, which metrics do produce.
    """
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    if error == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(2 * stats.t.sf(abs(differences.mean() / error), len(differences) - 1))
