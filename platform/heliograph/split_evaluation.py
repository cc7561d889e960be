"""The evaluation on a split other than each user's last items: its stages, models fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from heliograph.bundle import METRICS_FILE, read_sources
from heliograph.catalog import Catalogue
from heliograph.cold_start import item_cold_start, user_cold_start
from heliograph.comparison import compare_on_split, evaluation_settings
from heliograph.config import HeliographConfig, SplitName
from heliograph.interactions import Interactions
from heliograph.model_stages import Part, build_indexes, fit_models, model_names
from heliograph.models.item_lm import ItemLM
from heliograph.overlap import given_split, without_times
from heliograph.splits import HeldOut, last_items
from heliograph.stages import Stages
from heliograph.temporal import temporal_split, time_at_share
from heliograph.workspace import InputError, StageResult, write_json


def split_evaluation_stage(name: SplitName) -> str:
    """Return the name of the stage that holds what an evaluation on a split found."""
    return f"splits/{name}/evaluation"


def evaluate_on_split(
    stages: Stages,
    config: HeliographConfig,
    name: SplitName,
    catalogue: Catalogue,
    interactions: Interactions,
    given: Interactions | None,
) -> StageResult:
    """Fit every model on the training part of a split, and compare them on what it holds out.

    Early stopping and the blend look at the last training item of each user.

    Args:
        stages: `events`, `embeddings` and, where there are given events, `splits/given/events`
            have run.
        config: Of the recommender.
        name: Of the split.
        catalogue: The items.
        interactions: All clean events.
        given: The clean events to be found, if the split is of that kind.

    Raises:
        InputError: Events cannot be split this way.
    """
    prefix = f"splits/{name}/"
    held = _split_by(name, config, catalogue, interactions, given)
    _need_both_sides(name, held)
    _keep_account(stages, config, name, held)
    last = last_items(held.train)
    part = Part(prefix, f"{prefix}split", last.before, last.last, config.train)
    fit_models(stages, config, part, len(catalogue))
    build_indexes(stages, config.index, prefix, len(catalogue))

    def work(folder: Path) -> Mapping[str, float]:
        comparison = compare_on_split(
            sources=read_sources(stages.workspace / prefix, config.index),
            item_lm=ItemLM.load(stages.folder(f"{prefix}models/item_lm")),
            train=last,
            held=held,
            catalogue=catalogue,
            config=config,
            progress=stages.report.advance,
        )
        write_json(folder / METRICS_FILE, asdict(comparison))
        return {"users": held.counts.evaluated} | comparison.test.headline()

    inputs = stages.digests(f"{prefix}split", f"{prefix}index", *model_names(prefix))
    total = len(last.last.targets) + len(held.users)
    settings = evaluation_settings(config)
    return stages.run(split_evaluation_stage(name), settings, inputs, work, total)


def _need_both_sides(name: SplitName, held: HeldOut) -> None:
    """Refuse a split that leaves nothing to learn from or nobody to be judged by.

    Who asks for a split asks for its figures, so there is nothing to go on with.
    """
    if len(held.train) and len(held.users):
        return
    lacking = "training event" if not len(held.train) else "user to evaluate"
    raise InputError(
        f"the split {name} leaves no {lacking} ({'; '.join(held.counts.sentences())}); there are "
        "too few events for it, or `splits` holds out too much or too little"
    )


def _split_by(
    name: SplitName,
    config: HeliographConfig,
    catalogue: Catalogue,
    interactions: Interactions,
    given: Interactions | None,
) -> HeldOut:
    settings, seed = config.splits, config.seed
    if given is not None:
        if config.events.timestamp is None:  # places in two files say nothing of one another
            interactions, given = without_times(interactions), without_times(given)
        return given_split(interactions, given, catalogue.ids)
    if name == "temporal" and config.events.timestamp is None:
        raise InputError(
            "events without times cannot be split by time: events.timestamp is null; name the "
            "column of the time, or take another split"
        )
    kinds: dict[str, Callable[[], HeldOut]] = {
        "temporal": lambda: temporal_split(
            interactions, time_at_share(interactions, 1 - settings.test_share)
        ),
        "new-users": lambda: user_cold_start(
            interactions, settings.test_share, seed, settings.known
        ),
        "new-items": lambda: item_cold_start(interactions, settings.test_share, seed),
    }
    return kinds[name]()


def _keep_account(stages: Stages, config: HeliographConfig, name: SplitName, held: HeldOut) -> None:
    """Write down what the split is made of; its digest tells the models when it has changed."""
    sources = ["events", "splits/given/events"] if name == "given" else ["events"]
    inputs = stages.digests(*sources)

    def work(folder: Path) -> Mapping[str, float]:
        made_of = {"settings": config.splits.model_dump(), "seed": config.seed, "inputs": inputs}
        write_json(folder / "split.json", {"counts": asdict(held.counts), "made_of": made_of})
        return {"users": held.counts.evaluated, "training events": len(held.train)}

    settings: Mapping[str, BaseModel | int] = {"split": config.splits, "seed": config.seed}
    stages.run(f"splits/{name}/split", settings, inputs, work)
