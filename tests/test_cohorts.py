"""Cohorts have readable names, and every user is in one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.cohorts import (
    CohortRow,
    Cohorts,
    by_category,
    by_cohort,
    by_flag,
    by_history_length,
    by_popularity,
)


def test_histories_are_grouped_by_length() -> None:
    cohorts = by_history_length(np.array([0, 1, 2, 3, 5, 6, 200, 201, 9999]))
    assert cohorts.labels() == [
        "0 items",
        "1-2 items",
        "1-2 items",
        "3-5 items",
        "3-5 items",
        "6-10 items",
        "101-200 items",
        "over 200 items",
        "over 200 items",
    ]


def test_lengths_may_be_grouped_otherwise() -> None:
    assert by_history_length(np.array([0, 1, 2, 3]), largest=(1, 2)).labels() == [
        "0-1 items",
        "0-1 items",
        "2 items",
        "over 2 items",
    ]


def test_the_head_has_half_of_all_interactions() -> None:
    interactions = np.array([10, 0, 30, 50, 10])  # shares: item 3 50 %, item 2 80 %, then 0 and 4
    targets = np.array([3, 2, 0, 4, 1, 3], np.int32)
    assert by_popularity(targets, interactions).labels() == [
        "head",
        "torso",
        "tail",
        "tail",
        "unseen",
        "head",
    ]


def test_the_item_that_crosses_a_share_still_counts_to_the_more_popular_group() -> None:
    interactions = np.array([6, 4])
    assert by_popularity(np.array([0, 1], np.int32), interactions).labels() == ["head", "torso"]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_a_more_popular_item_is_never_in_a_less_popular_group(counts: list[int]) -> None:
    everyone = np.arange(len(counts), dtype=np.int32)
    groups = by_popularity(everyone, np.array(counts)).numbers
    for one in everyone:
        for other in everyone:
            assert counts[one] <= counts[other] or groups[one] <= groups[other]


def test_rare_categories_share_a_cohort() -> None:
    categories = [["drama", "war"], ["comedy"], ["western"], [], ["drama"]]
    targets = np.array([0, 4, 1, 2, 3, 3], np.int32)
    assert by_category(targets, categories, most=2).labels() == [
        "drama",
        "drama",
        "other",
        "other",
        "no category",
        "no category",
    ]


def test_a_category_that_is_called_other_is_among_the_others() -> None:
    cohorts = by_category(np.array([0, 0, 1], np.int32), [["other"], ["drama"]])
    assert cohorts.names == ("drama", "other")
    assert cohorts.labels() == ["other", "other", "drama"]


def test_each_cohort_has_its_own_mean_and_interval() -> None:
    cohorts = Cohorts(("few", "none", "many", "one"), np.array([0, 2, 2, 0, 3]))
    rows = by_cohort(np.array([1.0, 0, 0, 1, 0.5]), cohorts, seed=0)
    assert rows == [
        CohortRow("few", 2, 1, 1, 1),
        CohortRow("many", 2, 0, 0, 0),
        CohortRow("one", 1, 0.5, None, None),
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=12))
def test_cohorts_add_up_to_everyone(users: list[tuple[int, float]]) -> None:
    values = np.array([value for _, value in users])
    cohorts = Cohorts(("a", "b", "c", "d"), np.array([number for number, _ in users]))
    rows = by_cohort(values, cohorts, seed=0)
    assert sum(row.users for row in rows) == len(users)
    assert sum(row.users * row.mean for row in rows) == pytest.approx(values.sum())


def test_values_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit cohorts of 1 users"):
        by_cohort(np.zeros(2), Cohorts(("a",), np.zeros(1, np.int64)), seed=0)


def test_users_without_a_value_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 users have no value"):
        by_cohort(np.array([0, np.nan]), Cohorts(("a",), np.zeros(2, np.int64)), seed=0)


def test_users_are_grouped_by_whether_something_holds_of_them() -> None:
    cohorts = by_flag(np.array([True, False, True]), "known", "new")
    assert cohorts.labels() == ["new", "known", "new"]
