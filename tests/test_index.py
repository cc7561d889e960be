"""The index returns what a search by brute force returns, whatever is excluded or filtered."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph.config import IndexConfig, ServeConfig
from heliograph.index import NO_ITEM, VectorIndex, largest, mask_of, types
from heliograph.ranking.vllm_engine import start_engine
from heliograph.workspace import InputError

NO_ITEMS = np.zeros(0, np.int32)


def brute_force(scores: NDArray[np.float32], allowed: NDArray[np.bool_], k: int) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    return [int(item) for item in order if allowed[item]][:k]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 60),
    n_queries=st.integers(0, 4),
    k=st.integers(1, 80),
    most_excluded=st.integers(0, 60),
    share_eligible=st.none() | st.floats(0, 1),
)
def test_search_equals_brute_force(
    seed: int,
    n_items: int,
    n_queries: int,
    k: int,
    most_excluded: int,
    share_eligible: float | None,
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, 5)).astype(np.float32)
    queries = rng.normal(size=(n_queries, 5)).astype(np.float32)
    excluded = [
        rng.integers(0, n_items, rng.integers(0, most_excluded + 1)).astype(np.int32)
        for _ in range(n_queries)
    ]
    eligible = None if share_eligible is None else rng.random(n_items) < share_eligible
    hits = VectorIndex.build(vectors).search(queries, k, excluded, eligible)
    assert hits.items.shape == hits.scores.shape == (n_queries, k)
    for row, scores in enumerate(queries @ vectors.T):
        allowed = np.ones(n_items, bool) if eligible is None else eligible.copy()
        allowed[excluded[row]] = False
        expected = brute_force(scores, allowed, k)
        found = len(expected)
        assert hits.items[row, :found].tolist() == expected
        np.testing.assert_allclose(hits.scores[row, :found], scores[expected], atol=1e-5)
        assert (hits.items[row, found:] == NO_ITEM).all()
        assert np.isneginf(hits.scores[row, found:]).all()


def test_an_index_that_was_saved_and_loaded_finds_the_same(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    index = VectorIndex.build(vectors)
    index.save(tmp_path / "index.faiss")
    loaded = VectorIndex.load(tmp_path / "index.faiss", IndexConfig())
    assert (len(loaded), loaded.dim) == (30, 4)
    before, after = (each.search(vectors[:3], 5) for each in (index, loaded))
    np.testing.assert_array_equal(after.items, before.items)
    np.testing.assert_array_equal(after.scores, before.scores)


def test_two_hits_remain_though_all_better_ones_are_excluded() -> None:
    index = VectorIndex.build(np.arange(10, dtype=np.float32)[:, None])
    best = np.arange(2, 10, dtype=np.int32)
    assert index.search(np.ones((1, 1), np.float32), 2, [best]).items.tolist() == [[1, 0]]


def test_a_filter_that_nothing_passes_gives_no_hits() -> None:
    index = VectorIndex.build(np.eye(3, dtype=np.float32))
    hits = index.search(np.eye(3, dtype=np.float32), 2, eligible=np.zeros(3, bool))
    assert (hits.items == NO_ITEM).all()


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) with 1 values that are not"):
        VectorIndex.build(np.array([[1, np.nan], [0, 1]], np.float32))


@pytest.mark.parametrize(
    ("queries", "k", "eligible", "message"),
    [
        (np.ones((1, 4)), 1, None, r"shape \(1, 4\), but the index holds vectors of dim 3"),
        (np.ones(3), 1, None, r"shape \(3,\)"),
        (np.ones((1, 3)), 0, None, "k is 0"),
        (np.ones((1, 3)), 1, np.ones(2, bool), r"shape \(2,\), but the index holds 3 items"),
    ],
)
def test_a_search_that_cannot_be_right_is_refused(
    queries: NDArray[np.float32], k: int, eligible: NDArray[np.bool_] | None, message: str
) -> None:
    index = VectorIndex.build(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        index.search(queries, k, eligible=eligible)


@given(scores=st.lists(st.integers(-3, 3) | st.just(-np.inf), max_size=40), k=st.integers(1, 50))
def test_largest_is_the_head_of_a_stable_sort(scores: list[float], k: int) -> None:
    array = np.array(scores, np.float32)
    expected = [place for place in np.argsort(-array, kind="stable") if np.isfinite(array[place])]
    assert largest(array, k).tolist() == expected[:k]


def test_a_mask_is_true_at_the_items() -> None:
    assert mask_of(np.array([2, 0, 2], np.int32), 4).tolist() == [True, False, True, False]
    assert not mask_of(NO_ITEMS, 3).any()


# what an extra installs


def test_without_faiss_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    spec = spec_from_file_location("another_module", types.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(InputError, match=r"faiss is not installed: .*heliograph\[cpu\].*\[gpu\]"):
        spec.loader.exec_module(module_from_spec(spec))


def test_without_vllm_the_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"vllm is not installed: .*heliograph\[cpu\].*\[gpu\]"):
        start_engine(tmp_path, 3, 8, ServeConfig())
