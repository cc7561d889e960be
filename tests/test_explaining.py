"""Answers with reasons, and those without, which are what they always were."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from heliograph.display import recommendations
from heliograph_serve.api import (
    Cause,
    ExplainedRecommendations,
    Reason,
    RecommendationRequest,
    Recommendations,
    RecommendedItem,
)
from heliograph_serve.explaining import with_reasons

ITEM = RecommendedItem("i1", "One [b]", 0.25, 1, ("als", "text"))


def answer() -> Recommendations:
    return Recommendations(items=[ITEM], tier="generative", bundle="b", timings_ms={"total": 1.0})


def as_json(of: Recommendations | ExplainedRecommendations) -> dict[str, Any]:
    return dict(json.loads(TypeAdapter(type(of)).dump_json(of)))


def test_an_answer_without_reasons_does_not_mention_them() -> None:
    assert TypeAdapter(Recommendations).dump_json(answer()) == (
        b'{"items":[{"item_id":"i1","title":"One [b]","score":0.25,"rank":1,'
        b'"sources":["als","text"],"propensity":1.0}],"tier":"generative","relaxed":[],'
        b'"bundle":"b","experiment":null,"fresh":true,"timings_ms":{"total":1.0}}'
    )


def test_reasons_are_added_to_an_answer_and_nothing_else_changes() -> None:
    reason = Reason("als", 1.5, 1.0, [Cause("i7", "Seven", 1.25)])
    told = as_json(with_reasons(answer(), [([reason], -0.5)]))
    (item,) = told["items"]
    assert item.pop("reasons") == [
        {
            "source": "als",
            "nats": 1.5,
            "share": 1.0,
            "because": [{"item_id": "i7", "title": "Seven", "nats": 1.25}],
        }
    ]
    assert (item.pop("base"), told.pop("explained")) == (-0.5, True)
    assert told == as_json(answer())


def test_an_answer_whose_reasons_are_late_says_so() -> None:
    told = as_json(with_reasons(answer(), None))
    assert told["explained"] is False and told["items"][0]["reasons"] == []


def test_an_explained_answer_has_a_hundred_items_at_most() -> None:
    RecommendationRequest(user_id="ann", n=101)
    RecommendationRequest(user_id="ann", n=100, explain=True)
    with pytest.raises(ValidationError, match="at most 100 with explain, got 101"):
        RecommendationRequest(user_id="ann", n=101, explain=True)


def shown(told: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(recommendations(told, "For ann"))
    return captured.get()


def test_the_table_says_because_of_what_in_the_words_of_the_data() -> None:
    reasons = [
        Reason("als", 1.5, 1.0, [Cause("i7", "[red]Seven", 1.25), Cause("i8", "Eight", 0.5)]),
        Reason("item_lm", -2.0, None, []),
    ]
    text = shown(as_json(with_reasons(answer(), [(reasons, 0.0)])))
    assert "als +1.50: [red]Seven, Eight" in text and "item_lm -2.00" in text
    assert "because" in text and "sources" not in text
    assert "late" in shown(as_json(with_reasons(answer(), None)))
    assert "als, text" in shown(as_json(answer())) and "because" not in shown(as_json(answer()))
