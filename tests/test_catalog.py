"""Items: cleaning, upserts and filters. No Ray: what runs inside its tasks is plain functions."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.catalog import Catalogue, clean_items, keep_latest, template_columns
from heliograph.config import ItemsConfig
from heliograph.identifiers import MAX_ID_LENGTH
from heliograph.tables import REASON, ROW
from heliograph.workspace import InputError

CONFIG = ItemsConfig(path="items.csv", format="csv")


def items(config: ItemsConfig = CONFIG, **columns: Any) -> tuple[pa.Table, pa.Table]:
    """Clean a table given by its columns; return the items and the rejected rows."""
    if "title" not in columns:
        columns["title"] = [f"Item {row}" for row in range(len(columns["item_id"]))]
    return keep_latest(clean_items(pa.table(columns), config))


def test_items_come_in_order_of_identifier_with_the_four_columns_first() -> None:
    kept, rejected = items(item_id=["b", "a"], title=["B", "A"], year=[1999, 2000])
    assert kept.to_pylist() == [
        {"item_id": "a", "title": "A", "text": "A", "categories": [], "year": 2000},
        {"item_id": "b", "title": "B", "text": "B", "categories": [], "year": 1999},
    ]
    assert rejected.num_rows == 0


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([7, 42]), ["42", "7"]),
        (pa.array([7, 42], pa.uint8()), ["42", "7"]),
        (pa.array([7.0, 42.0]), ["42", "7"]),  # pandas, where another row was null
        (pa.array(["007", " 42 "]), ["007", "42"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array([b"x", b"y"]), ["x", "y"]),
        (pa.array(["日本", "naïve"]), ["naïve", "日本"]),
    ],
)
def test_identifiers_of_any_type_become_strings(column: pa.Array, expected: list[str]) -> None:
    kept, _ = items(item_id=column)
    assert kept["item_id"].to_pylist() == expected


@pytest.mark.parametrize(
    "column", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"\xff"])], ids=str
)
def test_a_column_that_cannot_hold_identifiers_is_an_error(column: pa.Array) -> None:
    with pytest.raises(InputError, match="cannot be read as text"):
        items(item_id=column)


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        (None, "item_id is missing"),
        ("", "item_id is missing"),
        (" \t ", "item_id is missing"),
        ("x" * 10_000, f"item_id has more than {MAX_ID_LENGTH} characters"),
        ("a\x00b", "item_id has characters that cannot be printed"),
        ("a\nb", "item_id has characters that cannot be printed"),
        ("a\u200bb", "item_id has characters that cannot be printed"),
    ],
)
def test_a_bad_identifier_is_refused_with_its_reason_and_its_row(
    identifier: str | None, reason: str
) -> None:
    kept, rejected = items(item_id=["good", identifier], year=[1999, 2000])
    assert kept["item_id"].to_pylist() == ["good"]
    assert rejected["reason"].to_pylist() == [reason]
    row = {"item_id": identifier, "year": 2000, "title": "Item 1"}
    assert json.loads(rejected["row"][0].as_py()) == row


def test_the_longest_identifier_is_kept() -> None:
    assert items(item_id=["x" * MAX_ID_LENGTH])[0].num_rows == 1


def test_of_a_repeated_identifier_the_last_row_stands() -> None:
    kept, rejected = items(item_id=["a", "b", "a "], title=["old", "B", "new"])
    assert kept["title"].to_pylist() == ["new", "B"]
    assert rejected["reason"].to_pylist() == ["a later row has the same item_id"]
    assert json.loads(rejected["row"][0].as_py())["title"] == "old"


def test_a_refused_row_does_not_supersede_a_good_one() -> None:
    kept, rejected = items(item_id=["a", None, None])
    assert kept.num_rows == 1
    assert rejected["reason"].to_pylist() == ["item_id is missing"] * 2


@pytest.mark.parametrize("title", [None, "", "  "])
def test_an_item_without_a_title_is_called_by_its_identifier(title: str | None) -> None:
    kept, _ = items(item_id=["a"], title=pa.array([title], pa.string()))
    assert kept.select(["title", "text"]).to_pylist() == [{"title": "a", "text": "a"}]


@pytest.mark.parametrize("null", [pa.nulls(1), pa.array([None], pa.int64())])
def test_columns_that_are_null_throughout_are_no_trouble(null: pa.Array) -> None:
    kept, _ = items(item_id=["a"], title=null, extra=null)
    assert kept["title"].to_pylist() == ["a"]
    assert Catalogue(kept).matching({"extra": "x"}).tolist() == [False]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x| y ||x", None]),
        pa.array([["x", " y ", "", None, "x"], None]),
        pa.array([["x", "y", "x"], []], pa.large_list(pa.string())),
    ],
)
def test_categories_are_a_list_or_a_string_to_cut(column: pa.Array) -> None:
    kept, _ = items(CONFIG.model_copy(update={"categories": "c"}), item_id=["a", "b"], c=column)
    assert kept["categories"].to_pylist() == [["x", "y", "x"], []]
    assert "c" not in kept.column_names


def test_categories_may_be_numbers() -> None:
    config = CONFIG.model_copy(update={"categories": "c"})
    assert items(config, item_id=["a"], c=[7])[0]["categories"].to_pylist() == [["7"]]
    assert items(config, item_id=["a"], c=[[7, 8]])[0]["categories"].to_pylist() == [["7", "8"]]


def test_the_template_is_filled_and_its_columns_remain_attributes() -> None:
    config = CONFIG.model_copy(update={"text": "{title} ({year}): {tags} {{x}}"})
    kept, _ = items(
        config,
        item_id=["a", "b"],
        title=["A", None],
        year=[1999, None],
        tags=[["x", "y"], None],
    )
    assert kept["text"].to_pylist() == ["A (1999): x, y {x}", "(): {x}"]
    assert kept["year"].to_pylist() == [1999, None]


def test_a_text_of_nothing_falls_back_to_the_title() -> None:
    config = CONFIG.model_copy(update={"text": "{plot}"})
    kept, _ = items(config, item_id=["a", "b"], title=["A", "B"], plot=[" ", "P"])
    assert kept["text"].to_pylist() == ["A", "P"]


@pytest.mark.parametrize(
    "template",
    [
        "{title",
        "title}",
        "{}",
        "{0}",
        "{a.b}",
        "{a[0]}",
        "{year:d}",
        "{a!x}",
        "{a:{b}}",
        "{a:>{b}}",
    ],
)
def test_a_broken_template_is_an_error_that_shows_it(template: str) -> None:
    with pytest.raises(InputError, match="items.text is not a usable template") as caught:
        template_columns(template)
    assert repr(template) in str(caught.value)


def test_the_columns_of_a_template_are_named_once() -> None:
    assert template_columns("{a} {b!s} {a:.10} {{c}}") == ["a", "b"]
    assert template_columns(None) == template_columns("") == template_columns("plain") == []


def test_a_column_called_like_one_of_the_catalogue_is_kept_under_another_name() -> None:
    config = CONFIG.model_copy(update={"item_id": "sku"})
    columns = {name: [name] for name in ("item_id", "text", "categories", REASON, ROW)}
    kept, _ = items(config, sku=["a"], title=["A"], **columns)
    row = kept.to_pylist()[0]
    assert (row["item_id"], row["text"], row["categories"]) == ("a", "A", [])
    assert {name: [row[f"{name}_"]] for name in columns} == columns


def test_a_text_column_that_the_template_uses_is_not_kept_twice() -> None:
    kept, _ = items(CONFIG.model_copy(update={"text": "{text}!"}), item_id=["a"], text=["T"])
    assert kept.column_names == ["item_id", "title", "text", "categories"]
    assert kept["text"].to_pylist() == ["T!"]


def test_vectors_of_other_modalities_keep_their_type() -> None:
    vectors = pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2))
    kept, _ = items(item_id=["a"], image=vectors)
    assert kept.schema.field("image").type == vectors.type


CATALOGUE = Catalogue(
    items(
        CONFIG.model_copy(update={"categories": "c"}),
        item_id=["a", "b", "c"],
        c=["Drama|War", "Comedy", None],
        year=[1999, 2000, None],
        price=[1.5, 2.0, None],
        live=[True, False, None],
        shape=[{"h": 1}, None, None],
    )[0]
)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "abc"),
        ({"categories": "War"}, "a"),
        ({"categories": ["War", "Comedy"]}, "ab"),
        ({"categories": "war"}, ""),
        ({"categories": []}, ""),
        ({"year": "1999"}, "a"),
        ({"year": ["1999", "2000"], "categories": "Comedy"}, "b"),
        ({"price": "2"}, "b"),
        ({"live": "true"}, "a"),
        ({"item_id": ["c", "zzz"]}, "c"),
    ],
)
def test_matching_items_have_a_wanted_value_in_every_column(
    conditions: dict[str, str | list[str]], expected: str
) -> None:
    eligible = CATALOGUE.matching(conditions)
    assert eligible.dtype == bool
    assert "".join(np.array(CATALOGUE.ids)[eligible]) == expected


def test_matching_works_on_a_table_of_several_chunks() -> None:
    chunks = Catalogue(pa.concat_tables([CATALOGUE.table.slice(1), CATALOGUE.table.slice(0, 1)]))
    assert chunks.matching({"categories": ["War"]}).tolist() == [False, False, True]
    assert chunks.matching({"year": ["2000"]}).tolist() == [True, False, False]


def test_an_unknown_attribute_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="filter.genre: .* no 'genre'.*categories, year"):
        CATALOGUE.matching({"genre": "War"})


def test_an_attribute_that_is_a_structure_cannot_be_a_filter() -> None:
    with pytest.raises(InputError, match="filter.shape: .* cannot be compared"):
        CATALOGUE.matching({"shape": "1"})


def test_a_catalogue_knows_its_rows() -> None:
    assert len(CATALOGUE) == 3
    assert CATALOGUE.row_of == {"a": 0, "b": 1, "c": 2}
    assert CATALOGUE.titles == CATALOGUE.texts == ["Item 0", "Item 1", "Item 2"]


IDS = st.lists(st.text(max_size=3) | st.none() | st.sampled_from(["a", "b", " a", "a\n"]))


@given(IDS)
def test_cleaning_loses_no_row(ids: list[str | None]) -> None:
    kept, rejected = items(item_id=pa.array(ids, pa.string()))
    assert kept.num_rows + rejected.num_rows == len(ids)
    assert rejected["reason"].null_count == rejected["row"].null_count == 0
    assert kept.column_names == ["item_id", "title", "text", "categories"]


@given(IDS)
def test_identifiers_that_are_kept_are_unique_printable_and_sorted(ids: list[str | None]) -> None:
    kept = items(item_id=pa.array(ids, pa.string()))[0]["item_id"].to_pylist()
    assert len(set(kept)) == len(kept)
    assert kept == sorted(kept, key=str.encode)
    assert all(name.isprintable() and name == name.strip() != "" for name in kept)
    assert set(kept) == {name.strip() for name in ids if name and name.strip().isprintable()} - {""}


@given(IDS)
def test_cleaning_what_is_clean_changes_nothing(ids: list[str | None]) -> None:
    kept, _ = items(item_id=pa.array(ids, pa.string()))
    config = CONFIG.model_copy(update={"categories": "categories", "text": "{text}"})
    again, rejected = keep_latest(clean_items(kept, config))
    assert again.equals(kept)
    assert rejected.num_rows == 0
