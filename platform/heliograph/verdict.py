"""Rankings of many models of the same users -> tables that can be trusted.

Every metric of every model, whether the pipeline's lead over each of them is more than luck, and
whom each serves well. Knows rankings and held-out items, not what produced them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.cohorts import (
    CohortRow,
    Cohorts,
    by_category,
    by_cohort,
    by_flag,
    by_history_length,
    by_popularity,
)
from heliograph.evaluation import measure, per_user
from heliograph.list_properties import list_values, mean_of_defined
from heliograph.significance import PairedDifference, compare_with
from heliograph.splits import HeldOutItems, LaterItems

PIPELINE = "pipeline"
DECISIVE_K = 10
DECISIVE = f"ndcg@{DECISIVE_K}"
"""The metric that is tested and shown for cohorts."""

Row = dict[str, float]
"""Metric such as `ndcg@10` -> mean over users."""


@dataclass(frozen=True)
class World:
    """What is known of the items, from training alone."""

    interactions: NDArray[np.int64]
    """(items,) training interactions of each."""

    vectors: NDArray[np.float32]
    """(items, dim) of the texts, for diversity."""

    categories: Sequence[Sequence[str]]
    """Of each item, its own first."""


@dataclass(frozen=True)
class Verdict:
    """All tables of one set of held-out items."""

    models: dict[str, Row]
    lead: dict[str, PairedDifference]
    """Model -> its NDCG@10 minus the pipeline's: below 0, the pipeline leads."""

    cohorts: dict[str, dict[str, list[CohortRow]]]
    """Kind of cohort -> model -> NDCG@10 of each cohort."""

    def headline(self) -> dict[str, float]:
        """Return the pipeline's decisive metric under its name; nothing if nobody was asked."""
        row = self.models.get(PIPELINE)
        return {} if row is None else {f"{PIPELINE}_{DECISIVE}": round(row[DECISIVE], 4)}


def judge(
    rankings: Mapping[str, NDArray[np.int32]],
    asked: HeldOutItems,
    world: World,
    ks: Sequence[int],
    seed: int,
) -> Verdict:
    """Compare models on the same held-out items.

    Args:
        rankings: Model -> (users, depth) item numbers, best first; one is the pipeline.
        asked: What the rankings answer.
        world: The items.
        ks: Cut-offs.
        seed: Of the bootstrap.
    """
    models = {name: _row(found, asked, world, ks) for name, found in rankings.items()}
    if len(asked.targets) < 2:  # nothing to test, nobody to group
        return Verdict(models, {}, {})
    values = {
        name: per_user(found, asked.targets, [DECISIVE_K])[DECISIVE]
        for name, found in rankings.items()
    }
    kinds = _kinds(asked, world)
    return Verdict(
        models=models,
        lead=compare_with(PIPELINE, values, seed),
        cohorts={
            kind: {name: by_cohort(value, cohorts, seed) for name, value in values.items()}
            for kind, cohorts in kinds.items()
        },
    )


def _row(ranking: NDArray[np.int32], asked: HeldOutItems, world: World, ks: Sequence[int]) -> Row:
    lists = list_values(ranking, ks, asked.histories, world.interactions, world.vectors)
    return measure(ranking, asked.targets, ks, len(world.interactions)) | {
        name: mean_of_defined(value) for name, value in lists.items()
    }


def _kinds(asked: HeldOutItems, world: World) -> dict[str, Cohorts]:
    lengths = np.array([len(history) for history in asked.histories], np.int64)
    kinds = {"history": by_history_length(lengths)}
    if isinstance(asked, LaterItems):
        return kinds | {
            "user": by_flag(asked.new_user, "known to training", "new"),
            "items to find": by_flag(asked.new_item, "known to training", "some new"),
        }
    kinds["popularity of the target"] = by_popularity(asked.targets, world.interactions)
    if any(map(len, world.categories)):
        kinds["category of the target"] = by_category(asked.targets, world.categories)
    return kinds
