"""A score is a sum, and its reasons are the terms: in worlds where one knows who did it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.config import SOURCE_NAMES, SourceName
from heliograph.explanation import (
    TOLD,
    Term,
    TermName,
    Terms,
    Traced,
    explanations,
    trace,
    traced_popularity,
)
from heliograph.index import NO_ITEM
from heliograph.interactions import History
from heliograph.models import weights_by_age
from test_candidates import EMPTY, N_ITEMS, SOURCES, history, retriever

ALL = np.arange(N_ITEMS, dtype=np.int32)
EVEN = np.ones(len(SOURCE_NAMES), np.float32)


def place(name: SourceName) -> int:
    return SOURCE_NAMES.index(name)


@settings(deadline=None, max_examples=40)
@given(
    items=st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=60),
    name=st.sampled_from(sorted(SOURCES.of_history())),
)
def test_what_the_items_of_a_history_add_is_the_models_own_score(
    items: list[int], name: SourceName
) -> None:
    asked = history(*items)
    parts = SOURCES.of_history()[name].parts(asked, ALL)
    assert parts.shape == (N_ITEMS, len(set(items)))
    if name == "transitions":
        expected = SOURCES.transitions.followers([asked]).toarray()[0]
    else:
        expected = SOURCES.model(name).scores([asked])[0]
    np.testing.assert_allclose(parts.sum(axis=1), expected, atol=2e-4)


def test_an_item_that_comes_twice_in_a_history_has_both_weights() -> None:
    weights = np.array([1.0, 0.5, 0.25], np.float32)
    assert weights_by_age(history(9, 4, 7, 4), weights).tolist() == [1.25, 0.5, 0.0]


def test_the_reason_of_the_next_item_on_the_circle_is_the_item_before_it() -> None:
    asked = history(2, 9, 17)
    traced = trace(SOURCES, asked, history(18, 10))
    because = traced.because[:, place("transitions"), 0]
    assert because.tolist() == [17, 9]


def test_the_reason_of_a_like_text_is_the_item_of_the_same_subject() -> None:
    traced = trace(SOURCES, history(1, 2, 3), history(5, 6, 7))  # four subjects: 5 is like 1
    assert traced.because[:, place("text"), 0].tolist() == [1, 2, 3]
    assert (traced.parts[:, place("text"), 0] > 0).all()


def test_no_more_items_are_named_than_speak_for_it_and_no_more_than_three() -> None:
    traced = trace(SOURCES, history(17), history(18))
    assert traced.because[0, place("transitions")].tolist() == [17, NO_ITEM, NO_ITEM]
    long = trace(SOURCES, history(*range(18)), history(18))
    assert long.because.shape == (1, len(SOURCE_NAMES), TOLD)
    assert long.because[0, place("transitions")].tolist() == [17, 16, 15]
    assert (long.because[0, place("popularity")] == NO_ITEM).all()


def test_traced_evidence_makes_up_the_scores_of_retrieval() -> None:
    asked: History = history(3, 4, 9, 4)
    found = retriever().retrieve([asked], 12)
    traced = trace(SOURCES, asked, found.items[0])
    alone, beside = (
        weights([asked])[0] for weights in (retriever().blend.alone, retriever().blend.weights)
    )
    np.testing.assert_allclose(traced.evidence @ alone, found.scores[0], atol=1e-4)
    above = traced.evidence @ beside - found.evidence[0]
    np.testing.assert_allclose(above, above[0], atol=1e-4)  # the last candidate's, for all


def traced(*evidence: list[float]) -> Traced:
    """Return evidence of items that are all there because of item 7, and then of item 5."""
    values = np.array(evidence, np.float32)
    because = np.full((*values.shape, TOLD), NO_ITEM, np.int32)
    because[..., :2] = [7, 5]
    parts = np.zeros((*values.shape, TOLD), np.float32)
    parts[..., 0], parts[..., 1] = 0.75 * values, 0.25 * values
    return Traced(values, because, parts)


def numbers(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_reasons_and_base_add_up_and_the_largest_comes_first() -> None:
    terms = Terms(numbers(3.0), np.array([True]), {"item_lm": numbers(-2.0)})
    (found,) = explanations(terms, traced([1.0, 4.0, -2.0, 0.0]), numbers(2.0, 1.0, 0.5, 1.0))
    assert [(reason.name, reason.nats) for reason in found.reasons] == [
        ("transitions", 4.0),
        ("popularity", 2.0),
        ("als", -1.0),
        ("item_lm", -2.0),
    ]
    assert found.base == -2.0  # 4 + 2 - 1 of the sources, of which 3 are counted
    assert [reason.share for reason in found.reasons] == pytest.approx([2 / 3, 1 / 3, 0, None])
    assert found.reasons[0].because == [(7, 3.0), (5, 1.0)]


def test_an_item_that_stands_with_the_last_candidate_owes_nothing_to_the_sources() -> None:
    others: dict[TermName, NDArray[np.float32]] = {
        "item_lm": numbers(-1.0, -3.0),
        "boosts": numbers(0.0, 0.5),
    }
    terms = Terms(numbers(0.0, 1.5), np.array([False, False]), others)
    first, second = explanations(terms, traced([1.0] * 4, [1.0] * 4), EVEN)
    assert (list(first.reasons), first.base) == ([Term("item_lm", -1.0, None)], 0.0)
    assert [reason.name for reason in second.reasons] == ["item_lm", "boosts"]
    assert second.base == 1.5
    assert explanations(terms, None, EVEN) == [first, second]


def test_a_source_that_counts_against_its_items_names_nobody_for_it() -> None:
    terms = Terms(numbers(-2.0), np.array([True]), {})
    (found,) = explanations(terms, traced([0.0, 2.0, 0.0, 0.0]), -EVEN)
    (reason,) = found.reasons
    assert (reason.nats, reason.share, list(reason.because)) == (-2.0, 0.0, [])


def test_where_only_popularity_is_asked_it_is_the_whole_reason() -> None:
    scores = numbers(4.0, 2.0)
    terms = Terms(scores, np.array([True, True]), {})
    weights = retriever().blend.alone([EMPTY])[0]
    for found, score in zip(
        explanations(terms, traced_popularity(scores), weights), (4.0, 2.0), strict=True
    ):
        assert (list(found.reasons), found.base) == ([Term("popularity", score, 1.0, [])], 0.0)
