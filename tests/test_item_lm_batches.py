"""Histories are cut into windows, and windows of one length share a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heliograph.models.item_lm import batches_by_length
from heliograph.models.item_lm_batches import windows


@given(lengths=st.lists(st.integers(1, 50), max_size=60), budget=st.integers(1, 120))
def test_batches_keep_their_budget_and_cover_each_row_once(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_length(lengths, budget))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget
    assert sorted(row for rows in batches for row in rows.tolist()) == list(range(len(lengths)))


@given(
    lengths=st.lists(st.integers(0, 40), max_size=8),
    max_history=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_windows_cover_each_history_exactly(
    lengths: Sequence[int], max_history: int, seed: int
) -> None:
    starts = np.cumsum([0, *lengths])
    items = np.arange(starts[-1], dtype=np.int32)
    histories = [items[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    cut = windows(histories, max_history, np.random.default_rng(seed))
    assert all(1 <= len(sequence) <= max_history for sequence in cut)
    assert np.concatenate([np.zeros(0, np.int32), *cut]).tolist() == items.tolist()
    for sequence in cut:  # no window mixes two users
        assert np.searchsorted(starts, sequence[0], "right") == np.searchsorted(
            starts, sequence[-1], "right"
        )


def test_long_histories_are_cut_elsewhere_in_every_epoch() -> None:
    long = [np.arange(100, dtype=np.int32)]
    firsts = {len(windows(long, 10, np.random.default_rng(seed))[0]) for seed in range(30)}
    assert firsts == {5, 6, 7, 8, 9, 10}
