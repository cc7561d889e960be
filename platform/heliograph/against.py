"""A running graph against the offline evaluation, on the same users.

The graph is asked through its API for the items that follow the histories of the test, and must
answer what the offline pipeline answers: whatever differs between training and serving shows here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph import client
from heliograph.bundle import Bundle
from heliograph.candidates import Retriever
from heliograph.comparison import USERS_A_CHUNK, rankings
from heliograph.evaluation import per_user
from heliograph.index import NO_ITEM
from heliograph.models.item_lm import ItemLM
from heliograph.splits import NextItems
from heliograph.verdict import PIPELINE
from heliograph.workspace import InputError

K = 10
AT_ONCE = 16
"""Requests under way together."""

DEADLINE_MS = 60_000
"""High, so that a busy machine does not answer with a cheaper tier."""

TOLERANCE = 5e-5
"""Figures that are equal to four decimals differ by less."""


@dataclass(frozen=True)
class Agreement:
    """What the graph and the offline pipeline came to."""

    users: int
    offline: dict[str, float]
    """Metric -> mean over users."""

    served: dict[str, float]
    tiers: dict[str, int]
    """Answers of each tier."""

    differing: NDArray[np.int64]
    """Places of the users whose lists are not the same."""

    @property
    def agrees(self) -> bool:
        """Whether every figure is the same to four decimals."""
        return all(
            abs(self.served[name] - value) < TOLERANCE for name, value in self.offline.items()
        )


def compare_with_graph(
    url: str, bundle: Bundle, asked: NextItems, progress: Callable[[int], None]
) -> Agreement:
    """Ask a graph and the offline pipeline of the same bundle for the same users.

    Args:
        url: Of the graph.
        bundle: What it serves.
        asked: Histories and the items to be found.
        progress: Told of every user, twice.

    Raises:
        EndpointError: The graph does not answer, or refuses.
        InputError: It serves another bundle, or nobody can be asked about.
    """
    if not len(asked.targets):
        raise InputError("no user has three events, so there is no test item to compare on")
    served_bundle = client.status(url)["bundle"]
    if served_bundle != bundle.id:
        raise InputError(
            f"{url} serves the bundle {served_bundle}, but {bundle.folder} is to be compared; "
            "serve that one, or use the configuration that the other was built from"
        )
    offline = _offline(bundle, asked, progress)
    served, tiers = _served(url, bundle, asked, progress)
    return Agreement(
        users=len(asked.targets),
        offline=_means(offline, asked),
        served=_means(served, asked),
        tiers=dict(tiers),
        differing=np.flatnonzero((offline != served).any(axis=1)),
    )


def _offline(
    bundle: Bundle, asked: NextItems, progress: Callable[[int], None]
) -> NDArray[np.int32]:
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    item_lm = ItemLM.load(bundle.item_lm().parent)
    found = [np.zeros((0, K), np.int32)]
    for start in range(0, len(asked.targets), USERS_A_CHUNK):
        chunk = asked.histories[start : start + USERS_A_CHUNK]
        found.append(rankings(retriever, item_lm, chunk, bundle.config)[PIPELINE][:, :K])
        progress(len(chunk))
    return np.concatenate(found)


def _served(
    url: str, bundle: Bundle, asked: NextItems, progress: Callable[[int], None]
) -> tuple[NDArray[np.int32], Counter[str]]:
    catalogue = bundle.catalogue()
    found = np.full((len(asked.targets), K), NO_ITEM, np.int32)
    tiers: Counter[str] = Counter()

    def ask(row: int) -> None:
        history = [catalogue.ids[item] for item in asked.histories[row]]
        answer = client.recommend(url, {"history": history, "n": K, "deadline_ms": DEADLINE_MS})
        items = [catalogue.row_of[item["item_id"]] for item in answer["items"]]
        found[row, : len(items)] = items
        tiers[answer["tier"]] += 1
        progress(1)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(ask, range(len(asked.targets))):
            pass
    return found, tiers


def _means(found: NDArray[np.int32], asked: NextItems) -> dict[str, float]:
    values = per_user(found, asked.targets, [K])
    return {name: float(value.mean()) if len(value) else 0.0 for name, value in values.items()}
