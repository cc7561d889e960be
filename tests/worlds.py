"""Small worlds whose right answer is known: tests of them need no data files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import Interactions

MINUTE_US = 60_000_000


def interactions(histories: Sequence[Sequence[int]]) -> Interactions:
    """Give each user a history; its events are a minute apart."""
    lengths = [len(history) for history in histories]
    return Interactions(
        user_ids=[f"u{user}" for user in range(len(histories))],
        offsets=np.cumsum([0, *lengths]),
        items=np.array([item for history in histories for item in history], np.int32),
        timestamps=np.array(
            [place * MINUTE_US for length in lengths for place in range(length)], np.int64
        ),
    )


def checkerboard(size: int) -> Interactions:
    """Even users like even items and odd users odd ones, all but the diagonal.

    So the best item for user i, of those not seen, is item i.
    """
    return interactions(
        [
            [item for item in range(size) if item % 2 == user % 2 and item != user]
            for user in range(size)
        ]
    )


def cycle(n_items: int, n_users: int, length: int) -> Interactions:
    """Item i is always followed by i + 1, and the last one by item 0; users start everywhere."""
    return interactions(
        [[(user + place) % n_items for place in range(length)] for user in range(n_users)]
    )


def clustered_vectors(
    clusters: int, items_each: int, dim: int, seed: int = 0
) -> NDArray[np.float32]:
    """Return (clusters * items_each, dim) vectors of length 1: item i is of cluster i % clusters.

    Items of one cluster have a cosine near 1, those of different clusters one near 0.
    """
    centres = np.eye(clusters, dim)[np.arange(clusters * items_each) % clusters]
    noise = np.random.default_rng(seed).normal(scale=0.02, size=centres.shape)
    vectors: NDArray[np.float32] = (centres + noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def clustered_texts(clusters: int, items_each: int) -> list[str]:
    """Return texts in the same order: item i is about subject i % clusters."""
    subjects = ["space rockets", "apple cake recipes", "football matches", "piano concertos"]
    return [
        f"{subjects[item % clusters]}, part {item // clusters + 1}"
        for item in range(clusters * items_each)
    ]
