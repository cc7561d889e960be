"""Every model and the whole pipeline in one table, by the same users and the same rules.

The weights of the pipeline are fitted on the validation items here, then frozen; the test items
are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from heliograph.blend import Blend
from heliograph.candidates import Retriever
from heliograph.catalog import Catalogue
from heliograph.config import SOURCE_NAMES, HeliographConfig, SourceName
from heliograph.evaluation import top_items
from heliograph.index import NO_ITEM
from heliograph.interactions import History, Interactions
from heliograph.models.item_lm import ItemLM
from heliograph.ranking import rank
from heliograph.ranking.fitting import (
    CohortEvidence,
    Contest,
    build_contest,
    fit_blend,
    join_contests,
)
from heliograph.sources import Limits, Sources
from heliograph.splits import HeldOut, HeldOutItems, LastItems, LeaveOneOut, NextItems
from heliograph.verdict import DECISIVE_K, PIPELINE, Verdict, World, judge

USERS_A_CHUNK = 512
"""Users scored at once: bounds memory to this many rows of the catalogue."""

WITHOUT_EVIDENCE: Mapping[SourceName, float] = {"transitions": 1.0, "popularity": 1e-4}
"""Weights where there is nobody to fit them on. Popularity only decides among items that follow
nothing, which would come in order of their numbers otherwise."""

NOBODY = (
    "nobody was evaluated: no user has three events, of which two would be held out, so nothing is "
    "known of how good the recommendations are, and no weights were fitted"
)
"""Why there are no figures. Such data is built and served all the same: what is counted and what
texts say needs no held-out items, and a shop that has just opened has nothing else."""

Progress = Callable[[int], None]
"""Told the number of histories ranked since the last call."""


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found."""

    users: int
    items: int
    cohorts: list[CohortEvidence]
    """The evidence by which each cohort got its weights."""

    validation: Verdict
    test: Verdict
    skipped: str | None
    """Why nobody was evaluated; None: somebody was."""


@dataclass(frozen=True)
class SplitComparison:
    """What an evaluation on a split other than leave-one-out found."""

    split: list[str]
    """What it holds out and what is odd about it."""

    items: int
    cohorts: list[CohortEvidence]
    """The evidence by which each cohort got its weights."""

    test: Verdict


def compare(
    sources: Sources,
    item_lm: ItemLM,
    split: LeaveOneOut,
    catalogue: Catalogue,
    config: HeliographConfig,
    progress: Progress,
) -> tuple[Blend, Comparison]:
    """Fit the blend; evaluate each source, the item LM, retrieval and the pipeline.

    Args:
        sources: Fitted on the training part of `split`.
        item_lm: Fitted on the same.
        split: Held-out items.
        catalogue: The items.
        config: Cut-offs, cohorts and sizes.
        progress: Told of every history, thrice: fitting, validation, test.
    """
    users, seed = config.evaluation.max_users, config.seed
    validation, test = (
        items.sample(users, seed) for items in (split.validation_items(), split.test_items())
    )
    world = world_of(split.train, catalogue, sources)
    blend, cohorts = fit(sources, item_lm, validation, config, progress)
    retriever = Retriever(sources, config.candidates, blend)
    found = Comparison(
        users=len(test.targets),
        items=len(catalogue),
        cohorts=cohorts,
        validation=evaluate(retriever, item_lm, validation, world, config, progress),
        test=evaluate(retriever, item_lm, test, world, config, progress),
        skipped=None if len(test.targets) else NOBODY,
    )
    return blend, found


def judge_refit(
    sources: Sources,
    item_lm: ItemLM,
    blend: Blend,
    split: LeaveOneOut,
    catalogue: Catalogue,
    config: HeliographConfig,
    progress: Progress,
) -> Verdict:
    """Judge models that were fitted on train and validation, with a blend that was fitted before.

    Args:
        sources: Refitted.
        item_lm: Refitted.
        blend: As `compare` found it.
        split: Held-out items.
        catalogue: The items.
        config: Cut-offs and sizes.
        progress: Told of every history.
    """
    asked = split.test_items().sample(config.evaluation.max_users, config.seed)
    world = world_of(split.train_and_validation(), catalogue, sources)
    retriever = Retriever(sources, config.candidates, blend)
    return evaluate(retriever, item_lm, asked, world, config, progress)


def compare_on_split(
    sources: Sources,
    item_lm: ItemLM,
    train: LastItems,
    held: HeldOut,
    catalogue: Catalogue,
    config: HeliographConfig,
    progress: Progress,
) -> SplitComparison:
    """Fit the blend on the last training items of users; evaluate what a split holds out.

    Args:
        sources: Fitted on `train.before`.
        item_lm: Fitted on the same.
        train: The training part of the split, its last items apart.
        held: The split.
        catalogue: The items.
        config: Cut-offs, cohorts and sizes.
        progress: Told of every history, twice: fitting, test.
    """
    asked = held.later_items().sample(config.evaluation.max_users, config.seed)
    world = world_of(train.before, catalogue, sources)
    blend, cohorts = fit(sources, item_lm, train.last, config, progress)
    retriever = Retriever(sources, config.candidates, blend)
    test = evaluate(retriever, item_lm, asked, world, config, progress)
    return SplitComparison(held.counts.sentences(), len(catalogue), cohorts, test)


def evaluation_settings(config: HeliographConfig) -> Mapping[str, BaseModel | int]:
    """Return the settings that an evaluation depends on besides its models."""
    return {
        "index": config.index.searched,
        "candidates": config.candidates,
        "ranking": config.ranking,
        "evaluation": config.evaluation,
        "ratings": config.models.ratings,
        "seed": config.seed,
    }


def world_of(train: Interactions, catalogue: Catalogue, sources: Sources) -> World:
    """Gather what the tables need to know of the items."""
    return World(
        interactions=np.bincount(train.items, minlength=len(catalogue)),
        vectors=sources.text.item_vectors,
        categories=catalogue.categories,
    )


def fit(
    sources: Sources,
    item_lm: ItemLM,
    asked: NextItems,
    config: HeliographConfig,
    progress: Progress,
) -> tuple[Blend, list[CohortEvidence]]:
    """Fit the blend on held-out items of users."""
    retriever = Retriever(sources, config.candidates, Blend.uniform({}))
    fixed = config.candidates.weights
    parts: list[Contest] = []
    sample = asked.sample(config.ranking.max_users, config.seed)
    for part in _places(len(sample.targets)):
        chunk = sample.pick(part)
        known = chunk.histories
        scores = item_lm.scores(known)
        own = top_items(scores, known, config.candidates.depth)
        limits = Limits(config.candidates.depth, known, None)
        proposals = retriever.propose(known, limits, [row[row != NO_ITEM] for row in own])
        lengths = [len(history) for history in known]
        parts.append(build_contest(proposals, scores, chunk.targets, lengths))
        progress(len(chunk.targets))
    if not any((part.target >= 0).any() for part in parts):  # nobody, or who has had everything
        return Blend.uniform(fixed or WITHOUT_EVIDENCE), []
    weights = None if fixed is None else np.array([fixed.get(name, 0) for name in SOURCE_NAMES])
    return fit_blend(join_contests(parts), config.ranking, weights, config.seed)


def evaluate(
    retriever: Retriever,
    item_lm: ItemLM,
    asked: HeldOutItems,
    world: World,
    config: HeliographConfig,
    progress: Progress,
) -> Verdict:
    """Judge every model's answers, ranked as they would be served."""
    parts = []
    for part in _places(len(asked.targets)):
        chunk = asked.pick(part)
        parts.append(rankings(retriever, item_lm, chunk.histories, config))
        progress(len(chunk.targets))
    names = parts[0] if parts else {}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return judge(joined, asked, world, cutoffs(config), config.seed)


def rankings(
    retriever: Retriever, item_lm: ItemLM, histories: Sequence[History], config: HeliographConfig
) -> dict[str, NDArray[np.int32]]:
    """Return (histories, k) rankings of all items by every model, as they would be served."""
    k = max(cutoffs(config))
    found: dict[str, NDArray[np.int32]] = {
        name: top_items(retriever.sources.model(name).scores(histories), histories, k)
        for name in SOURCE_NAMES
    }
    scores = item_lm.scores(histories)
    found["item_lm"] = top_items(scores, histories, k)
    candidates = retriever.retrieve(histories, max(config.candidates.count, k))
    found["retrieval"] = candidates.items[:, :k]
    ranked = rank(scores, candidates, histories, k).items
    asked = retriever.blend.asks_item_lm(histories)
    found[PIPELINE] = np.where(asked[:, None], ranked, candidates.items[:, :k])
    return found


def cutoffs(config: HeliographConfig) -> list[int]:
    """Return the cut-offs of the metrics, ascending, that which decides among them."""
    return sorted({*config.evaluation.ks, DECISIVE_K})


def _places(users: int) -> Iterator[NDArray[np.int64]]:
    """Yield the places of so many users, a chunk at a time."""
    for start in range(0, users, USERS_A_CHUNK):
        yield np.arange(start, min(start + USERS_A_CHUNK, users))
