"""How items become tokens of the item LM; no network is needed to know it.

The vocabulary is BOS, one token an item in order of number, then spare tokens.
"""

from __future__ import annotations

from heliograph.interactions import History

BOS = 0
"""Token that begins every prompt, so that an empty history is a prompt too."""

FIRST_ITEM = 1
"""Token of item 0; item r is token r + 1. Spare tokens follow the last item."""

VOCABULARY_MULTIPLE = 64
HF_FOLDER = "hf"
"""Folder of the Hugging Face checkpoint inside a saved item LM."""

TEXT_FILE = "text.safetensors"
"""Beside it: the (hidden, dim) `projection` by which text vectors become embeddings."""


def prompt(history: History, max_history: int) -> list[int]:
    """Return the tokens of a history: BOS, then its newest `max_history` items."""
    return [BOS, *(history[-max_history:] + FIRST_ITEM).tolist()]


def vocabulary_size(n_items: int, spare_tokens: int) -> int:
    """Return the number of tokens: BOS, items and spares, rounded up to a multiple of 64."""
    needed = FIRST_ITEM + n_items + spare_tokens
    return -(-needed // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
