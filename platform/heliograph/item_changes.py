"""What has become of items since a bundle was built: the latest state of each that was changed.

A change is numbered, and so is the order in which new items came; both are given by the store. So
whoever has applied the changes up to a number gives every item the same number as all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heliograph.config import EmbeddingConfig


@dataclass(frozen=True)
class ItemState:
    """The latest that is known of one item."""

    item_id: str
    available: bool
    change: int
    """Number of the change that brought the item into this state."""

    place: int | None = None
    """Counts the items with columns, in the order in which they first came; None: there are no
    columns, and only whether the item is available was said."""

    columns: str | None = None
    """The item as in a file of items, by name of column, as JSON."""

    text: str | None = None
    """What the encoder has read; None: nothing, since the text was that of the bundle."""

    encoder: str | None = None
    """Which encoder that was, as `encoder_name` says."""

    vector: bytes | None = None
    """(dim,) float32 of that text, of length 1."""

    @property
    def content(self) -> tuple[object, ...]:
        """Everything but whether the item is available."""
        return self.place, self.columns, self.text, self.encoder, self.vector


@dataclass(frozen=True)
class Changes:
    """All states up to a change."""

    states: Mapping[str, ItemState] = field(default_factory=dict)
    """By identifier of the item."""

    change: int = 0
    """The newest; 0: there are none."""

    content: int = 0
    """The newest of those that were not about availability alone."""

    def followed_by(self, states: Sequence[ItemState]) -> Changes:
        """Return the changes with newer states of some items."""
        change = max((state.change for state in states), default=self.change)
        renewed = any(
            state.content != known.content if known else state.columns is not None
            for state in states
            for known in [self.states.get(state.item_id)]
        )
        newer = {state.item_id: state for state in states}
        return Changes({**self.states, **newer}, change, change if renewed else self.content)


NO_CHANGES = Changes()


def encoder_name(config: EmbeddingConfig) -> str:
    """Return what vectors that are kept with a text are recognised by."""
    return f"{config.encoder}, {config.max_tokens} tokens"
