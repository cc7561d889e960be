"""Dataclasses of small arrays, end to end for the way between deployments."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heliograph_serve.columns import FEW, Columns, columns_of


@dataclass(frozen=True)
class Wish:
    """Some arrays, one of them with a dimension of its own, one that may be missing, and more."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    only: NDArray[np.int32] | None
    name: str


def wish(length: int, name: str, narrowed: bool) -> Wish:
    items = np.arange(length, dtype=np.int32)
    return Wish(
        items,
        np.float32(0.5) * items[None].astype(np.float32),
        items[:1] if narrowed else None,
        name,
    )


WISHES = st.lists(
    st.builds(wish, st.integers(0, 9), st.text(max_size=3), st.booleans()), max_size=FEW + 6
)


def travelled(rows: list[Wish]) -> list[Wish]:
    return list(pickle.loads(pickle.dumps(columns_of(rows))))


@given(WISHES)
def test_what_arrives_is_what_was_sent(rows: list[Wish]) -> None:
    arrived = travelled(rows)
    assert len(arrived) == len(rows)
    for one, other in zip(arrived, rows, strict=True):
        assert one.name == other.name
        for name in ("items", "scores", "only"):
            value, expected = getattr(one, name), getattr(other, name)
            assert (value is None) == (expected is None)
            if expected is not None:
                assert value.dtype == expected.dtype and value.shape == expected.shape
                assert (value == expected).all()


def test_rows_can_be_taken_out_one_by_one() -> None:
    columns = Columns([wish(2, "a", False), wish(0, "b", True), wish(5, "c", False)])
    assert len(columns) == 3
    assert columns[2].items.tolist() == [0, 1, 2, 3, 4] and columns[-2].name == "b"
    assert [one.name for one in columns[:2]] == ["a", "b"]
    with pytest.raises(IndexError):
        columns[3]


def test_arrays_of_two_kinds_keep_their_kinds() -> None:
    wide = Wish(np.zeros(2, np.int32), np.zeros((1, 2), np.float32), None, "")
    other = Wish(np.zeros(2, np.int32), np.zeros((2, 2), np.float32), None, "")
    arrived = travelled([wide, other])
    assert [one.scores.shape for one in arrived] == [(1, 2), (2, 2)]
