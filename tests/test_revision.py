"""Changes of items against a bundle: numbers, columns, vectors, models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from heliograph.attributes import FieldError
from heliograph.blend import Blend
from heliograph.candidates import Retriever
from heliograph.catalog import Catalogue, clean_items, plain_types
from heliograph.config import CandidatesConfig, EmbeddingConfig, HeliographConfig, TextConfig
from heliograph.index import VectorIndex
from heliograph.item_changes import NO_CHANGES, Changes, ItemState, encoder_name
from heliograph.item_columns import ItemColumns
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions
from heliograph.revision import Revision, revise, revised_catalogue, revised_sources
from heliograph.sources import Sources
from worlds import interactions

CONFIG = HeliographConfig.model_validate(
    {
        "name": "changes",
        "workspace": "nowhere",
        "items": {
            "path": "i",
            "format": "parquet",
            "item_id": "sku",
            "title": "name",
            "categories": "job",
            "text": "{name} {year}",
        },
        "events": {"path": "e", "format": "csv"},
    }
)
ROWS = pa.table(
    {
        "sku": ["a", "b", "c"],
        "name": ["An axe", "A bow", "A cup"],
        "job": [["wood"], ["hunt"], ["drink", "eat"]],
        "year": pa.array([1990, 1991, None], pa.int64()),
        "colour": pa.array(["red", "red", None]).dictionary_encode(),
        "since": pa.array([0, 1, None], pa.timestamp("us")),
        "title": ["t", None, None],
        "empty": pa.nulls(3),
    }
)
CATALOGUE = Catalogue(clean_items(ROWS, CONFIG.items).drop_columns(["_reason", "_row"]))
VECTORS = np.eye(3, 4, dtype=np.float32)
AXIS = {"new": 3, "An axe 1990": 0, "A bow 1991": 1, "A cup": 2}
NAME = encoder_name(EmbeddingConfig())


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the axis that a text is named for, the last one for all others."""
    return np.stack([np.eye(4, dtype=np.float32)[AXIS.get(text, 3)] for text in texts])


def came(item: str, place: int, available: bool = True, **columns: object) -> ItemState:
    return ItemState(item, available, place + 1, place, json.dumps(columns))


def changed(*states: ItemState) -> Changes:
    return NO_CHANGES.followed_by(states)


def revised(*states: ItemState) -> Revision:
    return revise(CATALOGUE, CONFIG, changed(*states), encode)


def columns() -> ItemColumns:
    return ItemColumns(CONFIG.items, plain_types(CATALOGUE.table).schema)


def test_new_items_are_numbered_behind_the_bundle_in_the_order_in_which_they_came() -> None:
    first = [came("z", 0, name="Zither"), came("b", 1, name="Bell")]
    early = revised(*first)
    late = revised(came("y", 2, name="Yoke"), *first, ItemState("ghost", False, 9))
    assert revised_catalogue(CATALOGUE, early).ids == ["a", "b", "c", "z"]
    assert revised_catalogue(CATALOGUE, late).ids == ["a", "b", "c", "z", "y"]
    assert late.numbers.tolist() == [1, 3, 4] and late.n_items == 5
    assert late.unavailable.tolist() == []


def test_an_item_is_replaced_as_a_whole_and_filters_see_it() -> None:
    states = (
        came("c", 0, name="A mug", year=2020, job="drink | eat", colour="blue", since="2020-02-03"),
        came("n", 1, title="attribute"),
    )
    catalogue = revised_catalogue(CATALOGUE, revised(*states))
    assert catalogue.titles == ["An axe", "A bow", "A mug", "n"]
    assert catalogue.texts[2:] == ["A mug 2020", "n"]
    assert catalogue.categories[2:] == [["drink", "eat"], []]
    assert catalogue.matching({"year": {"gte": 2000}}).tolist() == [False, False, True, False]
    assert catalogue.matching({"colour": "blue"}).tolist() == [False, False, True, False]
    assert catalogue.matching({"since": {"gte": "2020-02-03"}}).tolist() == [False] * 2 + [
        True,
        False,
    ]
    assert catalogue.matching({"title_": "attribute"}).tolist() == [False, False, False, True]
    assert CATALOGUE.titles[2] == "A cup"


@pytest.mark.parametrize(
    ("given", "place", "said"),
    [
        ({"nme": "x"}, "items.0.nme", "did you mean name?"),
        ({"sku": "x"}, "items.0.sku", "the identifier is item_id"),
        ({"year": "1990"}, "items.0.year", "expected a number, got '1990'"),
        ({"year": True}, "items.0.year", "expected a number"),
        ({"year": 1.5}, "items.0.year", "expected a whole number"),
        ({"year": 2**70}, "items.0.year", "no value of type int64"),
        ({"year": float("nan")}, "items.0.year", "expected a number"),
        ({"name": 7}, "items.0.name", "expected text"),
        ({"name": "\ud800"}, "items.0.name", "no value"),
        ({"job": ["a\0"]}, "items.0.job.0", "U+0000"),
        ({"job": 3}, "items.0.job", "expected a list"),
        ({"job": ["a", 3]}, "items.0.job.1", "expected text"),
        ({"since": "soon"}, "items.0.since", "expected ISO 8601"),
        ({"colour": {"a": 1}}, "items.0.colour", "expected text"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_its_place(
    given: dict[str, object], place: str, said: str
) -> None:
    with pytest.raises(FieldError) as refused:
        columns().check(given, "items.0")
    assert refused.value.place == place and said in refused.value.problem


def test_what_another_bundle_does_not_have_is_left_out() -> None:
    first = came("n", 0, name="N", gone="x", year="not a number here", since="soon")
    rows = revised(first, came("m", 1, name=["no text"], year=7, job={"a": 1})).rows
    assert rows["title"].to_pylist() == ["N", "m"]
    assert rows["year"].to_pylist() == [None, 7]
    assert rows["categories"].to_pylist() == [[], []]


def test_only_texts_that_nobody_has_read_are_encoded() -> None:
    asked: list[str] = []

    def listening(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return encode(texts)

    known = np.array([0, 0, 0, 1], np.float32)
    states = (
        came("a", 0, name="An axe", year=1990, colour="green"),  # its text is the bundle's
        ItemState("k", True, 2, 1, '{"name": "known"}', "known", NAME, known.tobytes()),
        ItemState("o", True, 3, 2, '{"name": "other"}', "other", "another", known.tobytes()),
        ItemState("p", True, 4, 3, '{"name": "past"}', "past text", NAME, known.tobytes()),
    )
    revision = revise(CATALOGUE, CONFIG, changed(*states), listening)
    assert asked == ["other", "past"]
    assert revision.reworded.tolist() == [3, 4, 5]
    assert revision.vectors[0].tolist() == known.tolist()


def test_availability_alone_is_no_news_for_columns() -> None:
    first = changed(came("n", 0, name="N"))
    later = first.followed_by([came("n", 0, available=False, name="N"), ItemState("a", False, 5)])
    assert (first.content, later.content, later.change) == (1, 1, 5)
    reworded = replace(came("n", 0, name="M"), change=6)
    assert later.followed_by([reworded]).content == 6
    assert revised(*later.states.values()).unavailable.tolist() == [0, 3]


def sources() -> Sources:
    past = interactions([[0, 1, 2], [0, 1], [1, 2]])
    text = Text.fit(TextConfig(), VECTORS)
    als = Als(np.eye(3, 2, dtype=np.float32) - 0.5, 1.0, 0.01)
    return Sources(
        Popularity(np.array([3, 2, 1], np.float32)),
        Transitions.fit(CONFIG.models.transitions, past, 3),
        als,
        text,
        {"text": VectorIndex.build(text.item_vectors), "als": VectorIndex.build(als.item_vectors)},
    )


def test_of_a_new_item_only_the_text_has_something_to_say() -> None:
    revision = revised(came("n", 0, name="A bow", year=1991))
    blend = Blend.uniform({"popularity": 1.0, "transitions": 1.0, "als": 1.0, "text": 1.0})
    config = CandidatesConfig(count=3, depth=3)
    before = Retriever(sources(), config, blend)
    after = Retriever(revised_sources(sources(), revision), config, blend)
    histories = [np.array([1], np.int32), np.array([0, 3], np.int32), np.array([3], np.int32)]
    old = before.retrieve(histories[:1], 3)
    new = after.retrieve(histories, 4)
    assert set(new.items[0].tolist()) == {0, 2, 3, -1}
    scores = dict(zip(new.items[0].tolist(), new.scores[0].tolist(), strict=True))
    for item, score in zip(old.items[0].tolist(), old.scores[0].tolist(), strict=True):
        assert item == -1 or scores[item] == pytest.approx(score, abs=1e-5)
    assert scores[3] == pytest.approx(1.0, abs=1e-5)  # its text is that of item 1
    assert new.items[2, 0] != 3 and (new.items[2] != -1).sum() == 3
    assert after.similar(3, 2).items[0, 0] == 1
    assert after.similar(1, 2).items[0, 0] == 3
    assert after.similar(1, 3, np.array([3], np.int32)).items[0].tolist() in ([0, 2], [2, 0])


def test_eligibility_and_exclusions_reach_new_items() -> None:
    revision = revised(came("n", 0, name="A bow", year=1991))
    retriever = Retriever(
        revised_sources(sources(), revision), CandidatesConfig(), Blend.uniform({"text": 1.0})
    )
    only = np.array([False, False, False, True])
    history = [np.array([1], np.int32)]
    assert retriever.retrieve(history, 2, eligible=only).items.tolist() == [[3, -1]]
    assert 3 not in retriever.retrieve(history, 3, [np.array([1, 3], np.int32)]).items


def test_an_old_text_model_says_that_the_bundle_must_be_built_again() -> None:
    with pytest.raises(ValueError, match="build the bundle again"):
        Text(VECTORS, 2.0).centred(VECTORS)


def test_categories_are_read_as_in_a_file_whether_text_or_list() -> None:
    config = CONFIG.items.model_copy(update={"text": "{name}: {job}", "categories_separator": " "})
    items = ItemColumns(config, plain_types(CATALOGUE.table).schema)
    rows: list[dict[str, object]] = [
        {"name": "A", "job": ["x", "y"]},
        {"name": "B", "job": "x y"},
        {"name": "C"},
        {"name": "D", "job": "z"},
    ]
    cleaned = items.clean(list("abcd"), [items.check(row, "items.0") for row in rows])
    assert cleaned["item_id"].to_pylist() == list("abcd")
    assert cleaned["text"].to_pylist() == ["A: x, y", "B: x y", "C:", "D: z"]
    assert cleaned["categories"].to_pylist() == [["x", "y"], ["x", "y"], [], ["z"]]
    assert items.clean([], []).num_rows == 0
