"""Items that come, change or go while a ranking engine runs: its tokens are taken up in place.

An item's embedding is the projection of its text vector, and for an item that was there when the
model was trained, what it has learnt besides.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from heliograph.models.item_tokens import FIRST_ITEM
from heliograph.models.text import Text
from heliograph.revision import Revision

EMBEDDINGS = "model.embed_tokens.weight"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class ItemTokens:
    """What an engine is told of items."""

    tokens: NDArray[np.int64]
    """(tokens,) whose embeddings are other ones now."""

    embeddings: NDArray[np.float32]
    """(tokens, hidden)"""

    end: int
    """The first token behind those of items."""

    shut: NDArray[np.int64]
    """Tokens of items that are not available."""

    is_stale: bool
    """Whether an embedding has changed that prompts may have been read with."""

    def packed(self) -> tuple[bytes, bytes, int, bytes]:
        """Return the arguments of `ItemWorker.take_up_items`; bytes cross processes as they are."""
        return self.tokens.tobytes(), self.embeddings.tobytes(), self.end, self.shut.tobytes()


class ItemEmbeddings:
    """Makes embeddings of changed items, and knows which the engine has."""

    def __init__(self, model: Path, projection: Path, text: Text, capacity: int) -> None:
        """Take what a bundle was trained with; nothing is read before the first change.

        Args:
            model: The Hugging Face folder of the item LM.
            projection: The file with the (hidden, dim) projection.
            text: The text model, whose vectors the item LM has seen.
            capacity: Items that the engine has tokens for.
        """
        self.model = model
        self.projection = projection
        self.text = text
        self.capacity = capacity
        self.n_items = len(text.item_vectors)
        self._written: dict[int, NDArray[np.float32]] = {}

    def news(self, revision: Revision) -> ItemTokens:
        """Return what the engine does not know yet; items that it has no room for are left out."""
        n_items = min(revision.n_items, self.capacity)
        new = {
            item: row
            for item, row in self._wanted(revision, n_items).items()
            if item not in self._written or not np.array_equal(row, self._written[item])
        }
        numbers = np.array(list(new), np.int64)
        gone = revision.unavailable[revision.unavailable < n_items]
        return ItemTokens(
            tokens=numbers + FIRST_ITEM,
            embeddings=np.array(list(new.values()), np.float32),
            end=FIRST_ITEM + n_items,
            shut=gone.astype(np.int64) + FIRST_ITEM,
            is_stale=bool((numbers < self.n_items).any()),
        )

    def told(self, items: ItemTokens) -> None:
        """Note that the engine knows by now."""
        numbers = (items.tokens - FIRST_ITEM).tolist()
        self._written |= dict(zip(numbers, items.embeddings, strict=True))
        self.n_items = items.end - FIRST_ITEM

    def _wanted(self, revision: Revision, n_items: int) -> dict[int, NDArray[np.float32]]:
        """Return the embedding of every item whose text is not that of the bundle, or was not."""
        fits = revision.reworded < n_items
        numbers = revision.reworded[fits]
        restored = np.setdiff1d(np.fromiter(self._written, np.int64), numbers)
        if not len(numbers):
            return dict(zip(restored.tolist(), self._learnt(restored), strict=True))
        projection = load_file(self.projection)["projection"]
        rows = self.text.centred(revision.vectors[fits]) @ projection.T
        was_there = numbers < len(self.text.item_vectors)
        before = numbers[was_there]
        rows[was_there] += self._learnt(before) - self.text.item_vectors[before] @ projection.T
        return dict(
            zip(
                [*numbers.tolist(), *restored.tolist()],
                [*rows, *self._learnt(restored)],
                strict=True,
            )
        )

    def _learnt(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        """Return the (numbers, hidden) embeddings that training has found."""
        if not len(numbers):
            return np.zeros((0, 1), np.float32)
        with safe_open(self.model / WEIGHTS_FILE, "np") as weights:
            rows: NDArray[np.float32] = weights.get_tensor(EMBEDDINGS)[numbers + FIRST_ITEM]
        return rows


@contextmanager
def with_room(model: Path, vocabulary: int) -> Iterator[Path]:
    """Lend a Hugging Face folder of the item LM whose vocabulary has at least so many tokens.

    It is the model's own, or one with rows of zeros behind its embeddings, gone after the block.
    """
    config = json.loads((model / CONFIG_FILE).read_text())
    missing = vocabulary - config["vocab_size"]
    if missing <= 0:
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="heliograph-item-lm-") as lent:
        folder = Path(lent)
        weights = load_file(model / WEIGHTS_FILE)
        weights[EMBEDDINGS] = np.pad(weights[EMBEDDINGS], ((0, missing), (0, 0)))
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(config | {"vocab_size": vocabulary}))
        for other in set(model.iterdir()) - {model / WEIGHTS_FILE, model / CONFIG_FILE}:
            (folder / other.name).symlink_to(other.resolve())
        yield folder
