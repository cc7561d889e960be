"""The check of a bundle before it is served: what counts as a wrong answer."""

from __future__ import annotations

import math

import pytest

from heliograph_serve.api import RecommendedItem, Tier
from heliograph_serve.served import Served
from heliograph_serve.smoke import fault_in


def served(ids: str, tier: Tier = "generative", score: float = 0.5) -> Served:
    items = [
        RecommendedItem(item_id=name, title=name, score=score, rank=rank, sources=())
        for rank, name in enumerate(ids, start=1)
    ]
    return Served(items, tier, keeps_caps=True)


@pytest.mark.parametrize(
    ("answer", "count", "fault"),
    [
        (served("abc"), 3, None),
        (served("ab"), 3, "has 2 items, expected 3"),
        (served("abcd"), 3, "has 4 items, expected 3"),
        (served("aba"), 3, "names an item twice"),
        (served("abc", score=math.nan), 3, "has a score that is no number"),
        (served("abc", score=math.inf), 3, "has a score that is no number"),
        (served("abc", "retrieval"), 3, "is of the retrieval tier, expected generative"),
        (served("abc", score=0), 3, "has no item to which the item LM gives a probability"),
        (served("", "popular"), 0, None),  # where nothing may come back, no tier finds anything
    ],
)
def test_a_wrong_answer_is_told_by_what_is_wrong(
    answer: Served, count: int, fault: str | None
) -> None:
    assert fault_in(answer, "generative", count) == fault
