"""What the changes of items mean for one bundle: its catalogue and models, revised.

The numbers of a bundle's items stay, and new items are numbered behind them in the order in which
they came. An item that the bundle knows already, because it was built since, is just updated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from heliograph.catalog import Catalogue, plain_types
from heliograph.config import EmbeddingConfig, HeliographConfig
from heliograph.item_changes import Changes, ItemState, encoder_name
from heliograph.item_columns import ItemColumns
from heliograph.sources import Sources

if TYPE_CHECKING:
    from heliograph.embedding import Encoder

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> (texts, dim) vectors of length 1."""


@dataclass(frozen=True)
class Revision:
    """Changes in the item numbers of a bundle."""

    n_items: int
    """With the new ones."""

    numbers: NDArray[np.int32]
    """(changed,) of the items that have other columns now, ascending."""

    rows: pa.Table
    """(changed,) these, as the catalogue has them."""

    reworded: NDArray[np.int32]
    """(reworded,) numbers of new items, and of those whose text is not the bundle's."""

    vectors: NDArray[np.float32]
    """(reworded, dim) the encoder's of these texts, of length 1."""

    content: int
    """The change up to which this is what became of the columns."""

    unavailable: NDArray[np.int32]
    """Numbers of the items that are not to come back, ascending."""


def revise(
    catalogue: Catalogue, config: HeliographConfig, changes: Changes, encode: Encode
) -> Revision:
    """Give the changed items their numbers.

    Args:
        catalogue: Of the bundle.
        config: Of the bundle.
        changes: All there are.
        encode: For texts of which no vector of the bundle's encoder is known.
    """
    states = sorted(
        (state for state in changes.states.values() if state.place is not None),
        key=lambda state: (catalogue.row_of.get(state.item_id, len(catalogue)), state.place),
    )
    new = [state.item_id for state in states if state.item_id not in catalogue.row_of]
    row_of_new = {item_id: len(catalogue) + place for place, item_id in enumerate(new)}

    def number(item_id: str) -> int | None:
        return catalogue.row_of.get(item_id, row_of_new.get(item_id))

    columns = ItemColumns(config.items, plain_types(catalogue.table.slice(0, 0)).schema)
    rows = columns.clean(
        [state.item_id for state in states], [json.loads(state.columns or "{}") for state in states]
    )
    numbers = np.array([number(state.item_id) for state in states], np.int32)
    texts = rows["text"].to_pylist()
    is_reworded = [
        item >= len(catalogue) or text != catalogue.table["text"][int(item)].as_py()
        for item, text in zip(numbers, texts, strict=True)
    ]
    there = [place for place, reworded in enumerate(is_reworded) if reworded]
    return Revision(
        n_items=len(catalogue) + len(new),
        numbers=numbers,
        rows=rows,
        reworded=numbers[there],
        vectors=_vectors(
            [states[place] for place in there], [texts[p] for p in there], config, encode
        ),
        content=changes.content,
        unavailable=unavailable(changes, number),
    )


def unavailable(changes: Changes, number: Callable[[str], int | None]) -> NDArray[np.int32]:
    """Return the numbers of the items that are not to come back, ascending."""
    gone = [number(state.item_id) for state in changes.states.values() if not state.available]
    return np.array(sorted(item for item in gone if item is not None), np.int32)


def revised_catalogue(catalogue: Catalogue, revision: Revision) -> Catalogue:
    """Return the catalogue with the changed rows, and the new ones behind it."""
    if not len(revision.numbers):
        return catalogue
    both = pa.concat_tables([plain_types(catalogue.table), revision.rows])
    places = np.arange(revision.n_items)
    places[revision.numbers] = len(catalogue) + np.arange(len(revision.numbers))
    return Catalogue(both.take(pa.array(places)).combine_chunks())


def revised_sources(sources: Sources, revision: Revision) -> Sources:
    """Return the models with the new items, of which only the text has something to say.

    The index of a model that says nothing of new items goes on without them.
    """
    if not len(revision.reworded):
        return sources
    text = sources.text.revised(revision.n_items, revision.reworded, revision.vectors)
    nearest = sources.indexes["text"].revised(text.item_vectors, revision.reworded)
    return replace(
        sources,
        popularity=sources.popularity.extended(revision.n_items),
        transitions=sources.transitions.extended(revision.n_items),
        als=sources.als.extended(revision.n_items),
        text=text,
        indexes={**sources.indexes, "text": nearest},
    )


def encoding(config: EmbeddingConfig) -> Encode:
    """Return an encoder, which is loaded when it is first asked."""
    loaded: list[Encoder] = []

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        from heliograph.embedding import Encoder  # imports torch, and hardly ever is it needed

        if not loaded:
            loaded.append(Encoder(config, "cpu"))
        return loaded[0].encode(texts)

    return encode


def _vectors(
    states: Sequence[ItemState], texts: Sequence[str], config: HeliographConfig, encode: Encode
) -> NDArray[np.float32]:
    name = encoder_name(config.embedding)
    vectors = [
        np.frombuffer(state.vector, np.float32)
        if state.vector is not None and (state.encoder, state.text) == (name, text)
        else None
        for state, text in zip(states, texts, strict=True)
    ]
    missing = [place for place, vector in enumerate(vectors) if vector is None]
    if missing:
        for place, vector in zip(missing, encode([texts[p] for p in missing]), strict=True):
            vectors[place] = vector
    return np.array(vectors, np.float32) if vectors else np.zeros((0, 0), np.float32)
