"""Answers with reasons, and those without, which are what they always were."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from ray.exceptions import RayError
from rich.console import Console

from heliograph.candidates import Candidates
from heliograph.display import recommendations
from heliograph.explanation import Traced, trace
from heliograph.interactions import History
from heliograph.rules import Plan
from heliograph_serve.api import (
    Cause,
    ExplainedRecommendations,
    Reason,
    RecommendationRequest,
    Recommendations,
    RecommendedItem,
    Tier,
)
from heliograph_serve.clock import Clock
from heliograph_serve.explaining import Explained, reasons_for, with_reasons
from heliograph_serve.retrieve import Lookup
from heliograph_serve.served import Grounds, Served
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import NotHeld
from test_candidates import N_ITEMS, SOURCES, history, retriever

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


ASKED = history(3, 4, 9)
FOUND = retriever().retrieve([ASKED], 8).row(0, 8)


def serving(knows: History = ASKED, is_open: bool = False) -> Serving:
    """Return what is served, by retrieval that goes by some history, whichever it is asked about.

    `is_open` says that retrieval is left alone.
    """

    async def traced(asked: History, items: NDArray[np.int32], timeout_s: float) -> Traced:
        async with asyncio.timeout(timeout_s):
            await asyncio.sleep(0)
            return trace(SOURCES, knows, items)

    ids = [f"i{item}" for item in range(N_ITEMS)]
    served = SimpleNamespace(
        retrieve=SimpleNamespace(is_open=is_open),
        blend=retriever().blend,
        traced=traced,
        catalogue=SimpleNamespace(ids=ids),
        titles=ids,
    )
    return cast(Serving, served)


def explained(
    of: Serving, tier: Tier, items: list[int], scores: list[float], deadline_s: float = 5
) -> Explained | None:
    """Return the reasons for the items of an answer that a tier has given, with these scores."""
    shown = [
        RecommendedItem(f"i{item}", f"i{item}", score, rank, ())
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
    ]
    ranked = FOUND if tier == "retrieval" else generative(items, scores)
    lookup = Lookup(ASKED, 8, ASKED)
    grounds = Grounds(Plan(), lookup, None, FOUND, ranked, np.array(items, np.int32))
    served = Served(shown, tier, True, grounds)
    return asyncio.run(reasons_for(of, served, grounds, Clock(deadline_s)))


def generative(items: list[int], scores: list[float]) -> Candidates:
    row = np.array([scores], np.float32)
    bits = np.zeros(row.shape, np.uint8)
    return Candidates(np.array([items], np.int32), row, np.zeros_like(row), bits)


def test_the_score_of_retrieval_is_the_sum_of_its_reasons() -> None:
    items, scores = FOUND.items[0].tolist(), FOUND.scores[0].tolist()
    found = explained(serving(), "retrieval", items, scores)
    assert found is not None
    for (reasons, base), score in zip(found, scores, strict=True):
        assert sum(reason.nats for reason in reasons) == pytest.approx(score, abs=1e-4)
        assert base == pytest.approx(0, abs=1e-4)
        assert {reason.source for reason in reasons} <= {"popularity", "transitions", "als", "text"}


def test_what_evidence_does_not_say_of_a_probability_is_the_item_lms() -> None:
    first, other = (
        int(FOUND.items[0, 0]),
        next(item for item in range(N_ITEMS) if item not in FOUND.items[0]),
    )
    found = explained(serving(), "generative", [first, other], [0.5, 0.25])
    assert found is not None
    (reasons, base), (of_other, base_of_other) = found
    nats = {reason.source: reason.nats for reason in reasons}
    assert base + sum(nats.values()) == pytest.approx(np.log(0.5), abs=1e-4)
    evidence = float(FOUND.evidence[0, 0])
    assert nats["item_lm"] == pytest.approx(np.log(0.5) - evidence, abs=1e-4)
    (only,) = of_other
    assert only.source == "item_lm" and only.nats == pytest.approx(np.log(0.25), abs=1e-4)
    assert base_of_other == 0


def test_an_item_that_fills_the_answer_has_no_reasons() -> None:
    items = [int(FOUND.items[0, 0]), int(FOUND.items[0, 1])]
    found = explained(serving(), "generative", items, [0.5, 0.0])
    assert found is not None
    assert found[0][0] and found[1] == ([], 0.0)


def test_reasons_of_other_models_than_those_that_ranked_are_not_told() -> None:
    items, scores = FOUND.items[0].tolist(), FOUND.scores[0].tolist()
    assert explained(serving(knows=history(20)), "retrieval", items, scores) is None


@pytest.mark.parametrize("case", ["retrieval is left alone", "no time is left"])
def test_reasons_that_cannot_come_are_not_waited_for(case: str) -> None:
    items, scores = FOUND.items[0].tolist(), FOUND.scores[0].tolist()
    of = serving(is_open=case == "retrieval is left alone")
    deadline_s = 0.0 if case == "no time is left" else 5.0
    assert explained(of, "retrieval", items, scores, deadline_s) is None


def test_where_the_item_lm_alone_has_a_say_retrieval_is_not_asked() -> None:
    other = next(item for item in range(N_ITEMS) if item not in FOUND.items[0])
    assert explained(serving(is_open=True), "generative", [other], [0.25]) is not None


@pytest.mark.parametrize("error", [NotHeld("another bundle"), RayError("it died"), OSError("full")])
def test_an_answer_is_given_without_reasons_where_finding_them_fails(error: Exception) -> None:
    of = serving()

    async def traced(asked: History, items: NDArray[np.int32], timeout_s: float) -> Traced:
        raise error  # by gRPC an error of a replica comes as it was raised there

    cast(Any, of).traced = traced
    assert explained(of, "retrieval", FOUND.items[0].tolist(), FOUND.scores[0].tolist()) is None
