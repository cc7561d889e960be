"""Items: from files to one clean table, a row an item, in order of identifier.

The number of a row in that table is the item's number everywhere inside heliograph; its
identifier is used only at the borders. Rows that are refused are kept with their reason.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from heliograph.attributes import Attributes
from heliograph.config import ItemsConfig
from heliograph.filter_parser import parse_filter
from heliograph.filters import evaluate
from heliograph.tables import (
    REASON,
    ROW,
    column,
    describe_refusals,
    is_list,
    read_cleaned,
    refuse,
    refuse_ids,
    split_refused,
    strings,
    with_refusals,
)
from heliograph.workspace import InputError

ITEMS_FILE = "items.parquet"
REJECTED_ITEMS_FILE = "rejected_items.parquet"
COLUMNS = ("item_id", "title", "text", "categories")
"""Of the catalogue; whatever else a file has becomes an attribute."""

TAKEN = frozenset({*COLUMNS, REASON, ROW})
"""Names that no attribute can have."""


class Catalogue:
    """All items: a table with the columns item_id, title, text, categories and attributes."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids: list[str] = table["item_id"].to_pylist()
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def titles(self) -> list[str]:
        """Titles, in order of row."""
        titles: list[str] = self.table["title"].to_pylist()
        return titles

    @property
    def texts(self) -> list[str]:
        """What the encoder reads of each item, in order of row."""
        texts: list[str] = self.table["text"].to_pylist()
        return texts

    @property
    def categories(self) -> list[list[str]]:
        """Categories, in order of row."""
        categories: list[list[str]] = self.table["categories"].to_pylist()
        return categories

    @cached_property
    def attributes(self) -> Attributes:
        """The columns as filters and rules see them."""
        return Attributes(self.table)

    def matching(self, conditions: Mapping[str, object]) -> NDArray[np.bool_]:
        """Tell which items a filter matches.

        Args:
            conditions: Column -> value, values or comparisons (`filter_parser`).

        Returns:
            (items,), true where the item is eligible.

        Raises:
            FieldError: The filter does not fit the catalogue.
        """
        return evaluate(parse_filter(conditions, self.attributes), self.attributes)


def ingest_items(
    config: ItemsConfig, folder: Path, changed: Callable[[pa.Schema], pa.Table] | None = None
) -> dict[str, float]:
    """Read, clean and write the catalogue.

    Args:
        config: Where the rows are and what their columns mean.
        folder: Gets `items.parquet` and `rejected_items.parquet`.
        changed: Returns items that stand for those of the files, in the schema of these.

    Returns:
        Counts of items and of rejected rows.

    Raises:
        InputError: A file or column is missing, or no usable item is left.
    """
    required = {config.item_id: "items.item_id", config.title: "items.title"}
    optional = dict.fromkeys(template_columns(config.text), "items.text")
    if config.categories:
        optional[config.categories] = "items.categories"
    rows = read_cleaned(config, required, optional, partial(clean_items, config=config))
    if changed is not None:
        rows = plain_types(rows)
        rows = pa.concat_tables(
            [rows, changed(rows.drop_columns([REASON, ROW]).schema)], promote_options="default"
        )
    items, rejected = keep_latest(rows)
    if items.num_rows == 0:
        raise InputError(f"{config.path} holds no usable item: {describe_refusals(rejected)}")
    pq.write_table(items, folder / ITEMS_FILE)
    pq.write_table(rejected, folder / REJECTED_ITEMS_FILE)
    return {"items": items.num_rows, "rejected": rejected.num_rows}


def clean_items(batch: pa.Table, config: ItemsConfig) -> pa.Table:
    """Bring rows into the catalogue's schema; a row that cannot be an item gets a reason.

    An item without a title is called by its identifier; one without text is read by its title.
    """
    ids = strings(batch[config.item_id])
    titles = pc.coalesce(strings(batch[config.title]), ids)
    cleaned = pa.table(
        {
            "item_id": ids,
            "title": titles,
            "text": pc.coalesce(_describe(batch, config.text), titles),
            "categories": _categories(column(batch, config.categories), config),
            **_attributes(batch, config),
        }
    )
    return with_refusals(cleaned, [refuse_ids(ids, "item_id")], came=batch)


def keep_latest(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split cleaned rows into items in order of identifier and rejected rows.

    Where an identifier occurs twice the later row stands, as in an upsert.
    """
    usable = rows[REASON].is_null().to_numpy()
    ids = rows["item_id"].to_pandas().where(usable)
    rows = refuse(rows, ids.duplicated(keep="last").to_numpy(), "a later row has the same item_id")
    items, rejected = split_refused(rows, ["item_id"])
    return items.sort_by("item_id"), rejected


def plain_types(table: pa.Table) -> pa.Table:
    """Return a catalogue whose columns can take any new value of their kind.

    A column of a few distinct values becomes one of plain values, one of nulls becomes text.
    """
    for place, stored in enumerate(table.schema):
        plain = stored.type
        if pa.types.is_dictionary(plain):
            plain = plain.value_type
        if pa.types.is_null(plain):
            plain = pa.string()
        if plain != stored.type:
            table = table.set_column(place, stored.name, table[stored.name].cast(plain))
    return table


def read_items(folder: Path) -> Catalogue:
    """Read the catalogue that `ingest_items` wrote."""
    return Catalogue(pq.read_table(folder / ITEMS_FILE))


def require_choice(catalogue: Catalogue, folder: Path) -> None:
    """Refuse a catalogue of one item: whatever is trained, the answer is that item or nothing.

    Args:
        catalogue: As `ingest_items` wrote it.
        folder: Where it did.

    Raises:
        InputError: There are not two items.
    """
    if len(catalogue) < 2:
        raise InputError(
            f"the catalogue has one item, {catalogue.ids[0]}, but a recommender needs two to "
            "choose from; items.item_id names the column in which they differ, and rows that were "
            f"refused are in {folder / REJECTED_ITEMS_FILE}"
        )


def template_columns(template: str | None) -> list[str]:
    """Return the columns that the template of `items.text` uses.

    Raises:
        InputError: Its braces are unbalanced, or hold something other than a column's name.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template or "")]
        columns = [field for field in fields if field is not None]
        (template or "").format_map(dict.fromkeys(columns, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"items.text is not a usable template ({error}): {template!r}; write columns as "
            "{title}, and braces that are meant as such as {{ and }}"
        ) from error
    return list(dict.fromkeys(columns))


def attribute_name(column: str) -> str:
    """Return what an attribute is called in the catalogue."""
    return f"{column}_" if column in TAKEN else column


def _attributes(batch: pa.Table, config: ItemsConfig) -> dict[str, pa.ChunkedArray]:
    """Return the columns that no setting names.

    One that is called like a column of the catalogue gets an underscore behind its name, unless
    the text has it anyway.
    """
    used = {config.item_id, config.title, config.categories}
    used |= TAKEN.intersection(template_columns(config.text))
    return {attribute_name(name): batch[name] for name in batch.column_names if name not in used}


def _describe(batch: pa.Table, template: str | None) -> pa.Array:
    """Fill the template for each row; null where there is none or nothing comes of it."""
    columns = template_columns(template)
    if not template:
        return pa.nulls(batch.num_rows, pa.string())
    values = [_readable(column(batch, name)) for name in columns]
    texts = [
        " ".join(template.format_map(dict(zip(columns, row, strict=True))).split())
        for row in zip(*values, strict=True)
    ]
    return pa.array([text or None for text in texts], pa.string())


def _readable(values: pa.ChunkedArray) -> list[str]:
    if is_list(values.type):
        return [", ".join(map(str, entries or [])) for entries in values.to_pylist()]
    return [text or "" for text in strings(values).to_pylist()]


def _categories(values: pa.ChunkedArray, config: ItemsConfig) -> pa.Array:
    if is_list(values.type):
        lists = values.to_pylist()
    else:
        texts = strings(values).to_pylist()
        lists = [(text or "").split(config.categories_separator) for text in texts]
    names = [[str(name).strip() for name in row or [] if name is not None] for row in lists]
    return pa.array([[name for name in row if name] for row in names], pa.list_(pa.string()))
